package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The manual pages are made from the commands: here, so that what makes them
// isn't in the binary. packaging/prepare.sh sets manEnv to the folder to write
// them to.
const manEnv = "SIDEGATE_MAN"

// TestManual makes the pages, one for each command, and has groff read them.
func TestManual(t *testing.T) {
	frame, err := os.ReadFile("../../packaging/sidegate.8")
	if err != nil {
		t.Fatal(err)
	}
	root := rootCommand()
	root.InitDefaultCompletionCmd()
	pages, err := manual(root, string(frame))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sidegate", "sidegate-run", "sidegate-key-create", "sidegate-doctor"} {
		if pages[name+".8"] == "" {
			t.Errorf("there is no page %s(8)", name)
		}
	}
	dir := os.Getenv(manEnv)
	if dir == "" {
		dir = t.TempDir()
	}
	for name, text := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, "\n\n") {
			t.Errorf("%s has an empty line, which a page shows as it is", name)
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Log("groff isn't installed: the pages weren't read")
		return
	}
	for name := range pages {
		out, err := exec.Command(groff, "-man", "-Tutf8", "-ww", "-rLL=80n", filepath.Join(dir, name)).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("warning:")) || bytes.Contains(out, []byte("error:")) {
			t.Errorf("groff on %s: %v, %s", name, err, out)
		}
	}
}

// manual is the pages by the names of their files. frame is the first one, with
// a place for the list of commands.
func manual(root *cobra.Command, frame string) (map[string]string, error) {
	pages := map[string]string{}
	var list strings.Builder
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if !sub.IsAvailableCommand() {
				continue
			}
			name := pageName(sub)
			pages[name+".8"] = page(sub)
			fmt.Fprintf(&list, ".TP\n.BR %s (8)\n%s.\n", roff(name), roff(sub.Short))
			walk(sub)
		}
	}
	walk(root)
	const place = ".\\\" COMMANDS\n"
	if !strings.Contains(frame, place) {
		return nil, fmt.Errorf("packaging/sidegate.8 has no line %q", place)
	}
	pages["sidegate.8"] = strings.Replace(frame, place, list.String(), 1)
	return pages, nil
}

// pageName is that of a command: sidegate-key-create.
func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func page(c *cobra.Command) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(".TH %s 8 \"\" \"sidegate\" \"System administration\"\n.nh", strings.ToUpper(roff(pageName(c))))
	p(".SH NAME\n%s \\- %s", roff(pageName(c)), roff(c.Short))
	p(".SH SYNOPSIS\n.B %s", roff(c.CommandPath()))
	if _, args, ok := strings.Cut(c.Use, " "); ok {
		p(".I %s", roff(args))
	} else if c.HasAvailableSubCommands() {
		p(".I COMMAND")
	}
	if c.HasAvailableFlags() {
		p(".RI [ FLAGS ]")
	}
	p(".SH DESCRIPTION")
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	b.WriteString(paragraphs(long))
	if flags := flagList(c); flags != "" {
		p(".SH OPTIONS\nEach may be written with one dash or two.\n%s", strings.TrimSuffix(flags, "\n"))
	}
	if c.Example != "" {
		p(".SH EXAMPLES\n.nf\n%s\n.fi", verbatim(c.Example))
	}
	p(".SH EXIT STATUS\n0 if all went well, 2 if the command line is wrong, 1 otherwise.")
	p(".SH SEE ALSO")
	refs := []string{".BR sidegate (8)"}
	if c.HasParent() && c.Parent().HasParent() {
		refs = append(refs, ".BR "+roff(pageName(c.Parent()))+" (8)")
	}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			refs = append(refs, ".BR "+roff(pageName(sub))+" (8)")
		}
	}
	p("%s", strings.Join(refs, ",\n"))
	return b.String()
}

func flagList(c *cobra.Command) string {
	var b strings.Builder
	each := func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, ".TP\n.B \\-%s", roff(f.Name))
		if value != "" {
			fmt.Fprintf(&b, " \\fI%s\\fR", roff(value))
		}
		fmt.Fprintf(&b, "\n%s.", roff(text))
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && !strings.Contains(text, "(default") {
			fmt.Fprintf(&b, " The default is %s.", roff(f.DefValue))
		}
		b.WriteByte('\n')
	}
	c.NonInheritedFlags().VisitAll(each)
	c.InheritedFlags().VisitAll(each)
	return b.String()
}

// paragraphs sets text: blocks that are indented stay as they are.
func paragraphs(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if part = strings.Trim(part, "\n"); part == "" {
			continue
		}
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(part, " ") || strings.HasPrefix(part, "\t") || strings.HasPrefix(part, "#") {
			b.WriteString(".nf\n" + verbatim(part) + "\n.fi\n")
			continue
		}
		b.WriteString(verbatim(part) + "\n")
	}
	return b.String()
}

func verbatim(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, line := range lines {
		line = strings.ReplaceAll(line, "\t", "    ")
		if lines[i] = roff(line); lines[i] == "" {
			lines[i] = "\\&"
		}
	}
	return strings.Join(lines, "\n")
}

// roff escapes what groff would take for its own.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", "\\(ga", "'", `\(aq`, "…", "...").Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}
