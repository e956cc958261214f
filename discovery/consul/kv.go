package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"strings"
)

// maxKV bounds what lies under a watched prefix, values and keys together.
const maxKV = 16 << 20

// WatchKV calls update with all keys under prefix and their values, whenever
// they change, until ctx ends. It reports all or nothing, as Watch does, and an
// empty map only when Consul said so without doubt. The map is the callee's to
// keep. It always returns nil.
func (c *Client) WatchKV(ctx context.Context, prefix string, update func(map[string][]byte)) error {
	w := c.track("kv " + prefix)
	defer c.untrack(w)
	r := read{path: "kv/" + (&url.URL{Path: prefix}).EscapedPath(), params: url.Values{"recurse": {""}}, limit: 2 * maxKV, dc: c.dc}
	var last map[string][]byte
	c.poll(ctx, w, func(ctx context.Context, index uint64) (uint64, error) {
		r := r
		r.index = index
		r.consistent = index == 0 && last != nil
		a, err := c.get(ctx, r)
		if err != nil {
			return 0, err
		}
		if a.index < index {
			// A server that lags behind, or one that was set back: which of them, a
			// consistent read from the beginning tells. What this one says may be of
			// the past, and a key that was revoked since would be back.
			return a.index, nil
		}
		index = a.index
		if a.missing && (last == nil || len(last) > 0) {
			if a, err = c.confirmNoKeys(ctx, r, prefix, a); err != nil {
				return 0, err
			}
		}
		keys, err := parseKV(a)
		if err != nil {
			return 0, err
		}
		w.count(len(keys))
		if last == nil || !maps.EqualFunc(last, keys, bytes.Equal) {
			last = keys
			update(maps.Clone(keys))
		}
		return index, nil
	})
	return nil
}

func (c *Client) confirmNoKeys(ctx context.Context, r read, prefix string, a answer) (answer, error) {
	if a.filtered {
		return a, complain("the token may not read this: the answer was filtered by ACLs")
	}
	return c.confirmEmpty(ctx, r, func(a answer) bool { return a.missing },
		permission{"key", "read", prefix})
}

func parseKV(a answer) (map[string][]byte, error) {
	keys := make(map[string][]byte)
	if a.missing {
		return keys, nil
	}
	var pairs []struct {
		Key   string
		Value []byte
	}
	if err := json.Unmarshal(a.body, &pairs); err != nil {
		return nil, complain("answer can't be read: %v", err)
	}
	size := 0
	for _, p := range pairs {
		if strings.HasSuffix(p.Key, "/") && len(p.Value) == 0 {
			continue // a folder that the UI made
		}
		if size += len(p.Key) + len(p.Value); size > maxKV {
			return nil, complain("more than %d bytes lie under this prefix", maxKV)
		}
		if p.Value == nil {
			p.Value = []byte{}
		}
		keys[p.Key] = p.Value
	}
	return keys, nil
}
