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
	match := func(uri string) bool {
		uri, _, _ = strings.Cut(uri, "\x00") // behind it are fields of the key
		return uri == begins || isPrefix && strings.HasPrefix(uri, begins)
	}
	s.ground(match)
	n, _ := s.all(func(m *meta) action {
		if match(m.uri) {
			return dropIt
		}
		return keepIt
	})
	return n, nil
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
