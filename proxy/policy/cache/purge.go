package cache

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Purge forgets all answers of a URL, of every route, person and variant, or, if it
// ends in *, of all that begin so; "*" alone is everything. Those on their way are
// never stored. It returns how many answers it was, those that nobody could reach
// any more included.
func (s *Store) Purge(what string) (int, error) {
	begins, isPrefix := strings.CutSuffix(what, "*")
	if begins != "" {
		var err error
		if begins, err = purgeURL(begins); err != nil {
			return 0, err
		}
	} else if !isPrefix {
		return 0, errors.New("say which URL, or * for all")
	}
	match := func(key string) bool {
		uri, _, _ := strings.Cut(key, "\x00") // behind it are fields of the key, or what answers of it differ by
		return uri == begins || isPrefix && strings.HasPrefix(uri, begins)
	}
	var uris, answers []string
	for key, v := range s.items.All() {
		if !match(key) {
			continue
		}
		switch v.(type) {
		case *record:
			uris = append(uris, key)
		case *entry:
			answers = append(answers, key)
		}
	}
	for i := range s.shards {
		uris = s.shards[i].flying(uris, match)
	}
	for _, uri := range uris {
		s.forget(uri)
	}
	for _, key := range answers {
		s.items.Invalidate(key)
	}
	return len(answers), nil
}

// flying appends the URIs of answers on their way.
func (sh *shard) flying(list []string, match func(string) bool) []string {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for uri := range sh.flights {
		if match(uri) {
			list = append(list, uri)
		}
	}
	return list
}

// purgeURL is a URL, or the beginning of one, as keys have it.
func purgeURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" {
		return "", fmt.Errorf("%q isn't a URL such as https://api.example.com/orders/7, nor the beginning of one and *", s)
	}
	host := strings.ToLower(u.Hostname())
	if p := u.Port(); p != "" && p != defaultPort(u.Scheme) {
		host += ":" + p
	}
	_, rest, _ := strings.Cut(s, "://")
	path := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		if path = rest[i:]; path[0] == '?' {
			path = "/" + path
		}
	}
	return u.Scheme + "://" + host + path, nil
}
