package setup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxAnswer bounds an answer's bytes.
const maxAnswer = 4096

// errNoAnswer is what ends the questions early.
var errNoAnswer = errors.New("the input ended before the questions did; nothing was written")

// dialog asks a person. The first error ends it.
type dialog struct {
	in  *bufio.Reader
	out io.Writer
	err error
}

// Ask asks for what Answers need. It asks again what can't be.
func Ask(in io.Reader, out io.Writer, a *Answers) error {
	d := &dialog{in: bufio.NewReaderSize(in, maxAnswer), out: out}
	fmt.Fprint(out, "A first configuration. Enter takes what stands in brackets; Ctrl-C ends it.\n\n")
	consul := d.choice("How are services found?", []string{
		"by addresses that you give now",
		"by Consul: services that register there",
	}) == 2
	if consul {
		d.line("Address of the Consul agent", "127.0.0.1:8500", func(s string) error { a.Consul = s; return checkConsul(s) })
	}
	d.services(a, consul)
	d.hosts(a)
	d.tls(a)
	usual := ":443"
	if a.TLS == Plain {
		usual = ":80"
	}
	d.line("Address to listen on", usual, func(s string) error { a.Listen = s; return checkAddress(s, false) })
	fmt.Fprintln(out)
	return d.err
}

func (d *dialog) services(a *Answers, consul bool) {
	if !consul {
		d.line("A service, as NAME=HOST:PORT,HOST:PORT", "", func(s string) error { return addService(a, s, true) })
	} else {
		d.line("A service of Consul to route to (none: services route themselves by tags)", "-", func(s string) error { return addService(a, s, false) })
	}
	for d.err == nil && len(a.Services) > 0 {
		more := false
		d.line("Another one", "-", func(s string) error { more = s != "-"; return addService(a, s, !consul) })
		if !more {
			return
		}
	}
}

func addService(a *Answers, s string, addresses bool) error {
	if s == "-" {
		return nil
	}
	got, err := ParseService(s)
	if err != nil {
		return err
	}
	if addresses && len(got.Instances) == 0 {
		return fmt.Errorf("say where it is: %s=127.0.0.1:8080", got.Name)
	}
	for _, other := range a.Services {
		if other.Name == got.Name {
			return fmt.Errorf("there is a service %q already", got.Name)
		}
	}
	a.Services = append(a.Services, got)
	return nil
}

func (d *dialog) hosts(a *Answers) {
	question, usual := "Hosts to serve, separated by commas", "localhost"
	if len(a.Services) == 0 {
		question, usual = "Hosts that services may claim, separated by commas", "*.example.com"
	}
	d.line(question, usual, func(s string) error {
		a.Hosts = SplitList(s)
		if len(a.Hosts) == 0 {
			return errors.New("name at least one")
		}
		return a.words()
	})
}

func (d *dialog) tls(a *Answers) {
	for d.err == nil {
		switch d.choice("Where do certificates come from?", []string{
			"Let's Encrypt, by ACME: for public names",
			"files",
			"the gateway's own authority: for localhost, addresses, *.internal, *.test",
			"no TLS: something in front of the gateway has it",
		}) {
		case 1:
			a.TLS = ACME
			d.line("E-mail address for the authority (none: -)", "-", func(s string) error { a.Email = strings.TrimPrefix(s, "-"); return nil })
		case 2:
			a.TLS = Files
			d.line("File of the certificate chain, PEM", "", func(s string) error { a.CertFile = s; return readable(s) })
			d.line("File of its key, PEM", "", func(s string) error { a.KeyFile = s; return readable(s) })
		case 3:
			a.TLS = Local
		default:
			a.TLS = Plain
		}
		if d.err != nil {
			return
		}
		err := a.tls()
		if err == nil {
			return
		}
		d.complain(err)
	}
}

// line asks until take accepts the answer. Without a usual one, there has to be
// an answer.
func (d *dialog) line(question, usual string, take func(string) error) {
	for d.err == nil {
		if usual != "" {
			fmt.Fprintf(d.out, "%s [%s]: ", question, usual)
		} else {
			fmt.Fprintf(d.out, "%s: ", question)
		}
		answer, ok := d.read()
		if !ok {
			return
		}
		if answer = or(answer, usual); answer == "" {
			d.complain(errors.New("this has no usual answer"))
			continue
		}
		if err := take(answer); err != nil {
			d.complain(err)
			continue
		}
		return
	}
}

// choice asks for one of several, from 1 on, the first being usual.
func (d *dialog) choice(question string, choices []string) int {
	fmt.Fprintln(d.out, question)
	for i, c := range choices {
		fmt.Fprintf(d.out, "  %d  %s\n", i+1, c)
	}
	chosen := 1
	d.line("Number", "1", func(s string) error {
		for i := range choices {
			if s == fmt.Sprint(i+1) {
				chosen = i + 1
				return nil
			}
		}
		return fmt.Errorf("%.20q isn't one of 1 to %d", s, len(choices))
	})
	return chosen
}

func (d *dialog) complain(err error) { fmt.Fprintf(d.out, "  %v\n", err) }

// read reads one line.
func (d *dialog) read() (string, bool) {
	b, err := d.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		d.err = errors.New("an answer is too long")
	case err != nil && len(strings.TrimSpace(string(b))) == 0:
		fmt.Fprintln(d.out)
		d.err = errNoAnswer
	}
	return strings.TrimSpace(string(b)), d.err == nil
}

// SplitList takes apart what commas separate.
func SplitList(s string) []string {
	var list []string
	for _, w := range strings.Split(s, ",") {
		if w = strings.TrimSpace(w); w != "" {
			list = append(list, w)
		}
	}
	return list
}
