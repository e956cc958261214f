package waf

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/corazawaf/coraza/v3/collection"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	ctypes "github.com/corazawaf/coraza/v3/types"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// inspect takes a request through the rules. It returns what they found, nil
// when it is no attack. A panic in them is an error.
//
// What the rules are given views the connection's memory. That is safe because
// the body was read before: nothing moves or overwrites it meanwhile.
func (p *Policy) inspect(r *reading) (f *found, err error) {
	defer func() {
		if v := recover(); v != nil {
			p.store.Log.WithFields(logrus.Fields{"route": p.route, "request_id": strings.Clone(r.x.RequestID), "panic": fmt.Sprint(v), "stack": string(debug.Stack())}).
				Error("the rules of the waf panicked")
			f, err = nil, exchange.NewFault(exchange.FromInternal, exchange.Internal, "waf: panic: %v", v)
		}
	}()
	tx := p.engine.waf.NewTransactionWithID(strings.Clone(r.x.RequestID))
	hit := p.run(tx, r)
	if hit != nil {
		f = newFound(tx, hit)
	}
	if err := tx.Close(); err != nil { // after a panic it isn't fit for use again
		p.store.Log.WithError(err).Warn("the waf leaves something behind")
	}
	return f, nil
}

// run feeds tx and returns why it is an attack; nil: it is none.
func (p *Policy) run(tx ctypes.Transaction, r *reading) *ctypes.Interruption {
	x := r.x
	vars := tx.(interface {
		Variables() plugintypes.TransactionVariables
	}).Variables()
	tx.ProcessConnection(x.ClientIP.String(), 0, "", 0)
	tx.SetServerName(x.Target.Host)
	tx.ProcessURI(target(x), x.Method, x.Proto.String())
	for i := range x.Request.Len() {
		if x.Request.ID(i) != exchange.Expect { // answered by the gateway
			tx.AddRequestHeader(x.Request.Field(i))
		}
	}
	if !x.Request.Has(exchange.Host) {
		tx.AddRequestHeader("Host", x.RawHost)
	}
	if r.whole {
		for i := range x.RequestTrailer.Len() {
			tx.AddRequestHeader(x.RequestTrailer.Field(i))
		}
	}
	if p.crowded(r) {
		set(vars.ArgumentsLimitReached(), "1")
	}
	body := p.prepare(tx, vars, r)
	set(vars.RequestBodyLength(), strconv.Itoa(len(r.body)))
	if i := tx.ProcessRequestHeaders(); i != nil {
		return i
	}
	if len(r.body) > 0 && !r.whole {
		set(vars.InboundDataError(), "1")
	}
	if len(body) > 0 {
		if i, _, err := tx.WriteRequestBody(body); i != nil || err != nil {
			return denied(i, err)
		}
	}
	i, err := tx.ProcessRequestBody()
	return denied(i, err)
}

// prepare says how the body is to be read, adds what Coraza leaves out, and
// returns what is left to Coraza. Forms and multipart it knows by their types.
func (p *Policy) prepare(tx ctypes.Transaction, vars plugintypes.TransactionVariables, r *reading) []byte {
	f := r.format
	start := bytes.TrimLeft(r.body, " \t\r\n")
	likeJSON := len(start) > 0 && (start[0] == '{' || start[0] == '[') && (f == plainText || f == form) && json.Valid(r.body)
	switch {
	case f == parts && misread(r):
		set(vars.MultipartStrictError(), "1")
	case f == form && likeJSON: // what its type says, and what a service may take it for
		p.prepareJSON(tx, vars, r)
	case f == plainText:
		// As a whole, not as a form: a line break in a form's name is an attack.
		tx.AddPostRequestArgument("body", string(r.body))
		if likeJSON {
			f = jsonText
		} else if len(start) > 0 && start[0] == '<' {
			f = xmlText
		}
	}
	switch f {
	case jsonText:
		set(vars.RequestBodyProcessor(), "JSON")
		p.prepareJSON(tx, vars, r)
		return nil
	case xmlText:
		set(vars.RequestBodyProcessor(), "XML")
		prepareXML(tx, vars, r.body)
	case plainText:
		set(vars.RequestBodyProcessor(), "RAW")
	}
	return r.body
}

// prepareJSON adds the values of a document, and as a whole what isn't one.
func (p *Policy) prepareJSON(tx ctypes.Transaction, vars plugintypes.TransactionVariables, r *reading) {
	if len(r.body) == 0 {
		return
	}
	n, size := 0, 0
	rest := flatten(r.body, func(name, value string) bool {
		tx.AddPostRequestArgument(name, value)
		n++
		size += len(name) + len(value)
		return n <= p.Arguments && size <= 4*len(r.body)+4096
	})
	if size > 4*len(r.body)+4096 { // long names, deep down; more than Arguments Coraza notices
		set(vars.ArgumentsLimitReached(), "1")
	}
	if rest != nil {
		set(vars.RequestBodyError(), "1")
		tx.AddPostRequestArgument("json", string(rest))
	}
}

// prepareXML adds what of a document hardly any rule looks at: its attributes,
// as arguments, and that it has a declaration of its type, by which a parser can
// be made to read files and ask servers.
func prepareXML(tx ctypes.Transaction, vars plugintypes.TransactionVariables, body []byte) {
	d := xml.NewDecoder(bytes.NewReader(body))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity // as Coraza reads it
	for {
		token, err := d.RawToken()
		if err != nil {
			return // Coraza comes to the same end, and says so
		}
		switch t := token.(type) {
		case xml.StartElement:
			for _, a := range t.Attr {
				tx.AddPostRequestArgument("xml."+a.Name.Local, a.Value)
			}
		case xml.Directive:
			vars.TX().Set("sidegate_doctype", []string{"1"})
		}
	}
}

// denied is i, or for an error of the engine what refuses the request.
func denied(i *ctypes.Interruption, err error) *ctypes.Interruption {
	if i == nil && err != nil {
		return &ctypes.Interruption{Action: "deny", Data: err.Error()}
	}
	return i
}

// set gives a variable a value. All of them can be set; the interface that
// Coraza shows just doesn't say so, and a test would notice.
func set(v collection.Single, value string) {
	v.(interface{ Set(string) }).Set(value)
}

// target is the request target as the client wrote it, escapes and dot segments
// included: what is hidden in it is what rules look for. Only the authority of
// the absolute form is left out.
func target(x *exchange.Exchange) string {
	raw := x.RawTarget
	if raw == "" || raw[0] == '/' || raw == "*" {
		return raw
	}
	_, rest, _ := strings.Cut(raw, "://")
	i := strings.IndexAny(rest, "/?")
	switch {
	case i < 0:
		return "/"
	case rest[i] == '?':
		return "/" + rest[i:]
	default:
		return rest[i:]
	}
}

const (
	mostFindings = 20 // in a line of the audit log
	mostPlaces   = 4  // of one finding
	mostName     = 64 // bytes of a place's name
	mostTold     = 3  // findings in the access log
)

// found is what rules found in a request.
type found struct {
	score int
	list  []finding
	more  int // findings that aren't in the list
}

// finding is a rule that matched. It has the names of what matched, and no
// values: they may be secrets.
type finding struct {
	ID       int      `json:"id"`
	Message  string   `json:"message,omitempty"`
	Severity string   `json:"severity,omitempty"`
	Where    []string `json:"where,omitempty"`
}

// newFound copies what tx found, which is lost when it is closed.
func newFound(tx ctypes.Transaction, hit *ctypes.Interruption) *found {
	f := &found{}
	vars := tx.(interface {
		Variables() plugintypes.TransactionVariables
	}).Variables()
	if score := vars.TX().Get("blocking_inbound_anomaly_score"); len(score) > 0 {
		f.score, _ = strconv.Atoi(score[0]) // it is a number that rules made
	}
	for _, m := range tx.MatchedRules() {
		id := m.Rule().ID()
		if m.Message() == "" && id != hit.RuleID || adds(id) {
			continue
		}
		if len(f.list) == mostFindings {
			f.more++
			continue
		}
		message, _, _ := strings.Cut(m.Message(), " (TX:") // 921180 tells a name there
		one := finding{ID: id, Message: strings.Clone(message), Severity: severity(m.Rule().Severity())}
		for _, d := range m.MatchedDatas() {
			where := place(d)
			if own := strings.HasPrefix(where, "TX:") || strings.HasPrefix(where, "MATCHED_VAR"); own {
				continue // what rules told each other
			}
			if len(one.Where) < mostPlaces && !slices.Contains(one.Where, where) {
				one.Where = append(one.Where, where)
			}
		}
		f.list = append(f.list, one)
	}
	if len(f.list) == 0 {
		f.list = append(f.list, finding{ID: hit.RuleID, Message: strings.Clone(hit.Data)})
	}
	return f
}

// adds reports whether a rule of the Core Rule Set only sets up, or adds up what
// others found.
func adds(id int) bool {
	return id >= 900_000 && id < 902_000 || id >= 949_000 && id < 950_000 || id >= 980_000 && id < 990_000
}

// place is where something was found. The name of a part is told if it can be
// one: JSON that is sent as a form is all name.
func place(d ctypes.MatchData) string {
	name, key := d.Variable().Name(), d.Key()
	switch {
	case key == "":
		return name
	case len(key) > mostName || strings.IndexFunc(key, notOfNames) >= 0:
		return name + ":?"
	default:
		return name + ":" + key
	}
}

func notOfNames(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.[]$:@/", r))
}

// severity is what a rule says of itself; "": nothing.
func severity(s ctypes.RuleSeverity) string {
	if s < 0 {
		return ""
	}
	return s.String()
}

// ids are those of the findings, in the order in which they came.
func (f *found) ids() string {
	var b strings.Builder
	for i, one := range f.list {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.Itoa(one.ID))
	}
	return b.String()
}

// text says in a line what was found.
func (f *found) text(threshold int) string {
	var b strings.Builder
	if f.score > 0 {
		fmt.Fprintf(&b, "score %d of %d: ", f.score, threshold)
	}
	for i, one := range f.list {
		if i == mostTold {
			fmt.Fprintf(&b, "; and %d more", len(f.list)+f.more-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(strings.TrimSpace(strconv.Itoa(one.ID) + " " + one.Message))
		if len(one.Where) > 0 {
			b.WriteString(" (" + strings.Join(one.Where, ", ") + ")")
		}
	}
	return b.String()
}
