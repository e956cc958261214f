package config

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format lays out a file as `sidegate fmt` does. A text that can't be read
// gives an error that names the place, as Diagnostics show it.
func Format(name string, src []byte) ([]byte, error) {
	diags := &Diagnostics{}
	doc := &document{name: name, src: src, remote: true, eval: &hcl.EvalContext{}}
	if at, deep := doc.tooDeep(); deep {
		diags.Errorf(at, "", "brackets or operators nested more than %d deep", maxNesting)
		return nil, diags.Err()
	}
	_, found := hclwrite.ParseConfig(src, name, hcl.InitialPos)
	diags.addHCL(found)
	if err := diags.Err(); err != nil {
		return nil, err
	}
	return hclwrite.Format(src), nil
}
