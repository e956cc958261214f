package waf

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	// mostBody bounds what an engine takes; a block's own bound is below it.
	mostBody = 64 << 20
	// mostDepth bounds how deep a JSON document may be nested: names grow with
	// it.
	mostDepth = 64
)

// base is what holds in every block, before the Core Rule Set. The ids are those
// of the recommended configuration that comes with Coraza.
//
// 200020 knows GraphQL: "$first" isn't an operator of MongoDB in it, nor "id" a
// command. What a body is was decided by media type, in one place (mediaTypes.of), and not by
// rules here. A body that was cut is no malformed one: what is missing wasn't
// read, and beyond says so.
const base = `SecRuleEngine On
SecAuditEngine Off
SecRxPreFilter On
SecRequestBodyAccess On
SecRequestBodyLimit %[1]d
SecArgumentsLimit %[2]d
SecDefaultAction "phase:1,log,pass"
SecDefaultAction "phase:2,log,pass"
SecRule URI_PARSE_ERROR "@eq 1" "id:200009,phase:1,t:none,deny,severity:CRITICAL,msg:'The URI can not be parsed'"
SecRule ARGUMENTS_LIMIT_REACHED "@eq 1" "id:200004,phase:1,t:none,deny,severity:CRITICAL,msg:'Too many arguments'"
SecRule ARGUMENTS_LIMIT_REACHED "@eq 1" "id:200005,phase:2,t:none,deny,severity:CRITICAL,msg:'Too many arguments'"
SecRule REQBODY_ERROR "!@eq 0" "id:200002,phase:2,t:none,deny,severity:CRITICAL,msg:'The body can not be parsed',chain"
  SecRule INBOUND_DATA_ERROR "!@eq 1" "t:none"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" "id:200003,phase:2,t:none,deny,severity:CRITICAL,msg:'The multipart body is malformed'"
SecRule TX:sidegate_doctype "@eq 1" "id:200010,phase:2,t:none,deny,severity:CRITICAL,msg:'An XML document that declares its type'"
SecRule ARGS:json.query|ARGS:body "@rx ^\s*(?:(?:query|mutation|subscription|fragment)\b[^{]*)?\{" "id:200020,phase:2,t:none,pass,nolog,ctl:ruleRemoveTargetById=942290;ARGS:json.query,ctl:ruleRemoveTargetById=942290;ARGS:body,ctl:ruleRemoveTargetById=932235;ARGS:json.query,ctl:ruleRemoveTargetById=932235;ARGS:body"
SecAction "id:900000,phase:1,pass,t:none,nolog,setvar:tx.crs_setup_version=4250,setvar:tx.blocking_paranoia_level=%[3]d,setvar:tx.inbound_anomaly_score_threshold=%[4]d,setvar:'tx.restricted_headers_basic=%[5]s',setvar:'tx.restricted_extensions=%[6]s'"
`

const (
	// restrictedFields are the Core Rule Set's without Content-Encoding, which
	// mediaTypes.of looks at, and Expect, which the gateway itself answers.
	restrictedFields = "/proxy/ /lock-token/ /content-range/ /if/ /x-http-method-override/ /x-http-method/ /x-method-override/ /x-middleware-subrequest/"
	// restrictedExtensions are the Core Rule Set's without .com: in an API, a
	// path that ends so ends in a domain or an address (/users/a@example.com),
	// not in a program of DOS.
	restrictedExtensions = ".ani/ .asa/ .asax/ .ascx/ .back/ .backup/ .bak/ .bck/ .bk/ .bkp/ .bat/ .cdx/ .cer/ .cfg/ .cmd/ .cnf/ .compositefont/ .config/ .conf/ .copy/ .crt/ .cs/ .csproj/ .csr/ .dat/ .db/ .dbf/ .dist/ .dll/ .dos/ .dpkg-dist/ .drv/ .gadget/ .hta/ .htr/ .htw/ .ida/ .idc/ .idq/ .inc/ .inf/ .ini/ .jks/ .jse/ .key/ .licx/ .lnk/ .log/ .mdb/ .msc/ .ocx/ .old/ .pass/ .pdb/ .pfx/ .pif/ .pem/ .pol/ .prf/ .printer/ .pwd/ .rdb/ .rdp/ .reg/ .resources/ .resx/ .sav/ .save/ .scr/ .sct/ .sh/ .shs/ .sql/ .sqlite/ .sqlite3/ .swap/ .swo/ .swp/ .sys/ .temp/ .tfstate/ .tlb/ .tmp/ .vb/ .vbe/ .vbs/ .vbproj/ .vsdisco/ .vxd/ .webinfo/ .ws/ .wsc/ .wsf/ .wsh/ .xsd/ .xsx/"
)

// adjust is what of the Core Rule Set doesn't suit an API. Which methods there
// are is the route's matter (911100), media types are that of mediaTypes.of
// (920420), and OData's parameters aren't operators of MongoDB (942290).
const adjust = `SecRuleRemoveById 911100 920420
SecRuleUpdateTargetById 942290 "!ARGS_NAMES:$filter|!ARGS_NAMES:$top|!ARGS_NAMES:$skip|!ARGS_NAMES:$select|!ARGS_NAMES:$expand|!ARGS_NAMES:$orderby|!ARGS_NAMES:$count|!ARGS_NAMES:$search"
`

// directives is a block as Coraza reads it. Blocks that say the same have the
// same text, whatever their mode.
func directives(c *Config, own []directive) string {
	var b strings.Builder
	fmt.Fprintf(&b, base, mostBody, c.Arguments, c.Paranoia, c.Threshold, restrictedFields, restrictedExtensions)
	for _, d := range own {
		b.WriteString(d.text)
		b.WriteByte('\n')
	}
	b.WriteString("Include @owasp_crs/REQUEST-*.conf\n" + adjust)
	for _, e := range c.Excludes {
		for _, r := range e.Rules {
			e.write(&b, r)
		}
	}
	return b.String()
}

// write writes what takes out one of the rules of e.
func (e *ExcludeConfig) write(b *strings.Builder, rule string) {
	by := "ByTag"
	if _, _, ok := idRange(rule); ok {
		by = "ById"
	}
	if len(e.Targets) == 0 {
		fmt.Fprintf(b, "SecRuleRemove%s %s\n", by, rule)
		return
	}
	for _, t := range e.Targets {
		fmt.Fprintf(b, "SecRuleUpdateTarget%s %s \"!%s\"\n", by, rule, t)
	}
}

// idRange reads an id, or "FROM-TO".
func idRange(s string) (from, to int, ok bool) {
	first, last, many := strings.Cut(s, "-")
	if !many {
		last = first
	}
	from, err := strconv.Atoi(first)
	if err != nil || from < 1 || first[0] == '+' {
		return 0, 0, false
	}
	to, err = strconv.Atoi(last)
	return from, to, err == nil && to >= from && last[0] != '+'
}
