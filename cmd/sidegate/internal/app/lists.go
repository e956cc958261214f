package app

import (
	"maps"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/policy/network"
)

// listsFolder is where, below consul.kv, lists of networks are: the key
// lists/NAME, and all below lists/NAME/ for one that a single value can't hold.
const listsFolder = "lists"

// apart divides what KV holds into documents of the configuration and lists.
func apart(kv map[string][]byte, prefix string) (documents, lists map[string][]byte) {
	documents, lists = map[string][]byte{}, map[string][]byte{}
	for _, key := range slices.Sorted(maps.Keys(kv)) {
		name, ok := strings.CutPrefix(key, prefix+listsFolder+"/")
		if !ok {
			documents[key] = kv[key]
			continue
		}
		name, _, _ = strings.Cut(name, "/")
		lists[name] = append(append(lists[name], kv[key]...), '\n')
	}
	return documents, lists
}

// lists returns what finds the lists of a draft. One that isn't there is taken
// for empty, one with wrong lines for the others, and both are told: neither a
// start without Consul nor a slip in KV may stop the configuration.
func (a *App) lists(d *draft) func(name string) *network.Set {
	read := map[string]*network.Set{}
	return func(name string) *network.Set {
		if s := read[name]; s != nil {
			return s
		}
		text, ok := d.lists[name]
		s, err := a.listed.Read(name, text)
		read[name] = s
		switch {
		case !ok:
			d.problem("KV "+listsFolder+"/"+name, "there is no such list: it counts as empty")
		case err != nil:
			d.problem("KV "+listsFolder+"/"+name, "%v: the other lines count", err)
		}
		return s
	}
}
