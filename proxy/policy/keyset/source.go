package keyset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// Source says where the keys of an issuer are. Equal ones share a set.
type Source struct {
	Issuer string // what iss says of tokens
	URL    string // of the JWKS; "": the issuer's discovery document tells
	CAs    string // roots in PEM for that server; "": the system's
}

// Check reports what is wrong with a source, each error with the name of the
// argument in front.
func (s Source) Check() error {
	var errs error
	switch {
	case s.Issuer == "":
		errs = errors.New("issuer: is empty")
	case s.URL != "":
		errs = prefixed("jwks", remote.CheckURL(s.URL, "keys"))
	default:
		errs = prefixed("issuer", remote.CheckURL(s.Issuer, "keys"))
	}
	return errors.Join(errs, remote.CheckCAs(s.CAs))
}

func prefixed(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

// The bounds of a fetch.
const (
	fetchTimeout = 5 * time.Second
	maxDocument  = 64 << 10 // of discovery
)

// client follows no redirect: the configuration says where the keys are.
func (s Source) client() *http.Client {
	t := remote.Transport(s.CAs, true)
	t.DisableKeepAlives = true // a connection every some minutes isn't worth keeping, and so there is none to close
	return &http.Client{CheckRedirect: remote.NoRedirects, Transport: t}
}

// fetch returns the keys, why some were left out, and how long they may be kept;
// 0: nobody said.
func (s Source) fetch(ctx context.Context, c *http.Client) (list []*Key, bad []error, keep time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	from := s.URL
	if from == "" {
		if from, err = s.discover(ctx, c); err != nil {
			return nil, nil, 0, err
		}
	}
	text, keep, err := get(ctx, c, from, maxSet)
	if err != nil {
		return nil, nil, 0, err
	}
	list, bad, err = parseSet(text)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("%s: %w", from, err)
	}
	return list, bad, keep, nil
}

// discover asks the issuer where its keys are (OpenID Connect Discovery 1.0, 4).
func (s Source) discover(ctx context.Context, c *http.Client) (string, error) {
	from := strings.TrimSuffix(s.Issuer, "/") + "/.well-known/openid-configuration"
	text, _, err := get(ctx, c, from, maxDocument)
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	// One that speaks for another issuer must not be believed (ibid., 4.3).
	if doc.Issuer != s.Issuer {
		return "", fmt.Errorf("%s is about the issuer %.200q, not %q", from, doc.Issuer, s.Issuer)
	}
	if err := remote.CheckNamed(doc.JWKS, s.Issuer, "keys"); err != nil {
		return "", fmt.Errorf("%s: jwks_uri: %w", from, err)
	}
	return doc.JWKS, nil
}

func get(ctx context.Context, c *http.Client, from string, most int64) ([]byte, time.Duration, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, 0, err
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	r.Header.Set("User-Agent", "sidegate")
	resp, err := c.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("%s answers %s", from, resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", from, err)
	}
	if int64(len(text)) > most {
		return nil, 0, fmt.Errorf("%s answers with more than %d bytes", from, most)
	}
	return text, maxAge(resp.Header.Get("Cache-Control")), nil
}

// maxAge is what Cache-Control says (RFC 9111, 5.2.2.1); 0: nothing.
func maxAge(field string) time.Duration {
	for part := range strings.SplitSeq(field, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); strings.EqualFold(name, "max-age") && err == nil {
			return time.Duration(n) * time.Second
		}
	}
	return 0
}
