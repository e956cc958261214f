package config

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// FormatConsumer writes a consumer in the configuration language: its plan, its
// labels, and whose tokens and certificates are its.
func FormatConsumer(c *consumer.Config) []byte {
	f := hclwrite.NewEmptyFile()
	body := f.Body().AppendNewBlock("consumer", []string{c.Name}).Body()
	if c.Plan != "" {
		body.SetAttributeValue("plan", cty.StringVal(c.Plan))
	}
	if c.Priority != "" {
		body.SetAttributeValue("priority", cty.StringVal(c.Priority))
	}
	if len(c.Use) > 0 {
		var use []cty.Value
		for _, name := range c.Use {
			use = append(use, cty.StringVal(name))
		}
		body.SetAttributeValue("use", cty.ListVal(use))
	}
	if len(c.Labels) > 0 {
		labels := map[string]cty.Value{}
		for name, value := range c.Labels {
			labels[name] = cty.StringVal(value)
		}
		body.SetAttributeValue("labels", cty.ObjectVal(labels))
	}
	for _, j := range c.JWT {
		inner := body.AppendNewBlock("jwt", nil).Body()
		inner.SetAttributeValue("subject", cty.StringVal(j.Subject))
		if j.Issuer != "" {
			inner.SetAttributeValue("issuer", cty.StringVal(j.Issuer))
		}
	}
	for _, m := range c.MTLS {
		body.AppendNewBlock("mtls", nil).Body().SetAttributeValue("san", cty.StringVal(m.SAN))
	}
	return hclwrite.Format(f.Bytes())
}

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
