package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// consumers checks plans and consumers, and that each key is one consumer's.
func (c *checker) consumers() {
	plans := map[string]bool{}
	for _, p := range c.file.Plans {
		plans[p.Name] = true
		if c.broken[p] {
			continue
		}
		if err := p.Check(); err != nil {
			c.blame(p, fmt.Sprintf("plan %q", p.Name), err)
		}
	}
	owners := map[consumer.Hash]*consumer.Config{}
	keys := map[consumer.Hash]*consumer.KeyConfig{}
	for _, o := range c.file.Consumers {
		what := fmt.Sprintf("consumer %q", o.Name)
		if (o.Plan != "" || c.given(o, "plan")) && !plans[o.Plan] && c.whole && !c.broken[o] {
			advice := didYouMean(o.Plan, slices.Sorted(maps.Keys(plans)))
			if len(plans) == 0 {
				advice = fmt.Sprintf("Add plan %q { … } at the top.", o.Plan)
			}
			c.errorf(o, "plan", advice, "%s has the plan %q, which isn't defined", what, o.Plan)
		}
		for _, k := range o.Keys {
			if c.broken[k] {
				continue
			}
			h, err := consumer.ParseHash(k.SHA256)
			if err != nil {
				c.errorf(k, "sha256", `printf %s "$KEY" | sha256sum prints it.`, "%s: api_key: sha256: %v", what, err)
				continue
			}
			if first := owners[h]; first != nil {
				c.broken[o] = true
				c.diags.Add(Diagnostic{
					Text: fmt.Sprintf("%s has a key that consumer %q has, too", what, first.Name), Range: c.at(k, "sha256"), Also: c.at(keys[h], "sha256"),
					Advice: "Remove one of them: a key says who is calling.",
				})
				continue
			}
			owners[h], keys[h] = o, k
		}
	}
}
