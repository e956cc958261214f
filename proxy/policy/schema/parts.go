package schema

import "github.com/sidegate-proxy/sidegate/proxy/policy/document"

// arrayKeyword compiles a keyword for arrays.
func (c *Compiler) arrayKeyword(s *Schema, key string, v *document.Node) (err error) {
	if s.array == nil {
		s.array = &listed{least: -1, most: -1, fewest: 1, greatest: -1}
	}
	a := s.array
	switch key {
	case "prefixItems":
		a.prefix, err = c.list(v, key)
	case "items":
		if v.Kind == document.List {
			return v.Errorf("a list of items is prefixItems since draft 2020-12")
		}
		a.items, err = c.Compile(v)
	case "contains":
		a.contains, err = c.Compile(v)
	case "maxItems":
		a.most, err = count(v, key)
	case "minItems":
		a.least, err = count(v, key)
	case "maxContains":
		a.greatest, err = count(v, key)
	case "minContains":
		a.fewest, err = count(v, key)
	default:
		a.unique = v.True()
		err = v.Want(key, document.Bool)
	}
	return err
}

// objectKeyword compiles a keyword for objects.
func (c *Compiler) objectKeyword(s *Schema, key string, v *document.Node) (err error) {
	if s.object == nil {
		s.object = &mapped{properties: map[string]property{}, least: -1, most: -1}
	}
	o := s.object
	switch key {
	case "properties":
		list, err := c.schemas(v, key)
		if err != nil {
			return err
		}
		for i, name := range v.Keys {
			p, ok := o.properties[name] // required may have come before
			if !ok {
				p.required = -1
			}
			p.schema = list[i]
			o.properties[name] = p
		}
	case "patternProperties":
		return c.patterns(o, v)
	case "additionalProperties":
		o.additional, err = c.orBool(v)
	case "propertyNames":
		o.names, err = c.Compile(v)
	case "maxProperties":
		o.most, err = count(v, key)
	case "minProperties":
		o.least, err = count(v, key)
	case "required":
		return o.require(v)
	default:
		return c.dependents(o, key, v)
	}
	return err
}

// orBool is Compile for where OpenAPI 3.0 knows true and false, too.
func (c *Compiler) orBool(v *document.Node) (*Schema, error) {
	if v.Kind == document.Bool {
		return &Schema{never: !v.True()}, nil
	}
	return c.Compile(v)
}

func (c *Compiler) patterns(o *mapped, v *document.Node) error {
	list, err := c.schemas(v, "patternProperties")
	if err != nil {
		return err
	}
	for i, text := range v.Keys {
		re, err := CompilePattern(text)
		if err != nil {
			return v.Items[i].Errorf("%v", err)
		}
		o.patterns = append(o.patterns, patterned{re, list[i]})
	}
	return nil
}

func (o *mapped) require(v *document.Node) error {
	list, err := names(v, "required")
	for _, name := range list {
		p, ok := o.properties[name]
		if ok && p.required >= 0 {
			continue
		}
		p.required = len(o.required)
		o.properties[name] = p
		o.required = append(o.required, name)
	}
	return err
}

func names(v *document.Node, what string) (list []string, err error) {
	if err := v.Want(what, document.List); err != nil {
		return nil, err
	}
	for _, n := range v.Items {
		if err := n.Want("a name in "+what, document.String); err != nil {
			return nil, err
		}
		list = append(list, n.Text)
	}
	return list, nil
}

func (c *Compiler) dependents(o *mapped, key string, v *document.Node) error {
	if err := v.Want(key, document.Map); err != nil {
		return err
	}
	for i, name := range v.Keys {
		d := dependent{name: name}
		var err error
		if key == "dependentRequired" {
			d.names, err = names(v.Items[i], key)
		} else {
			d.schema, err = c.Compile(v.Items[i])
		}
		if err != nil {
			return err
		}
		o.needs = append(o.needs, d)
	}
	return nil
}
