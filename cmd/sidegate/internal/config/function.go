package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// outside marks values that functions brought in: they aren't literal, may be
// text where a number is wanted, and aren't shown.
const outside = "outside"

// functions gives a document env, file and credential. What they read is
// noted in opened.
func functions(d *document, opt Options, opened func(string)) *hcl.EvalContext {
	if d.remote {
		return &hcl.EvalContext{} // whoever may write KV must not read our files through it
	}
	contents := func(path string) (string, error) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(d.dir, path)
		}
		b, _, err := readBounded(path, maxSecret)
		if err != nil {
			return "", plain(err)
		}
		opened(path)
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	return &hcl.EvalContext{Functions: map[string]function.Function{
		"env": text("name", func(name string) (string, error) {
			v, ok := opt.env(name)
			if !ok {
				return "", errors.New("the environment has no variable " + name)
			}
			return v, nil
		}),
		"file": text("path", contents),
		"credential": text("name", func(name string) (string, error) {
			dir, ok := opt.env("CREDENTIALS_DIRECTORY")
			if !ok || dir == "" {
				return "", errors.New("there are no systemd credentials ($CREDENTIALS_DIRECTORY isn't set); give the unit LoadCredential=" + name + ":PATH")
			}
			if name == "" || name != filepath.Base(name) || name == "." || name == ".." {
				return "", errors.New("a credential's name has no slashes")
			}
			return contents(filepath.Join(dir, name))
		}),
	}}
}

// text is a function from string to string.
func text(param string, f func(string) (string, error)) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: param, Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			out, err := f(args[0].AsString())
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			return cty.StringVal(out).Mark(outside), nil
		},
	})
}

// plain says what went wrong with a file in an operator's words.
func plain(err error) error {
	var p *os.PathError
	if !errors.As(err, &p) {
		return err
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is no file " + p.Path)
	case errors.Is(err, os.ErrPermission):
		return errors.New(p.Path + " can't be read: permission denied")
	default:
		return errors.New(p.Path + ": " + p.Err.Error())
	}
}
