package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// Consumers is what the server shows and changes of consumers and their keys.
// Errors that are the caller's matter are of type *Error.
type Consumers interface {
	Consumers(after string, limit int) ConsumerPage
	Consumer(name string) (ConsumerStatus, error)
	PutConsumer(ctx context.Context, name string, in ConsumerInput) (ConsumerStatus, error)
	DeleteConsumer(ctx context.Context, name string) error
	Keys(ctx context.Context, consumer, after string, limit int) (KeyPage, error)
	CreateKey(ctx context.Context, consumer, expires string) (NewKey, error)
	RotateKey(ctx context.Context, id, overlap, expires string) (NewKey, error)
	RevokeKey(ctx context.Context, id string) (KeyStatus, error)
}

// Error is a refusal, with its status.
type Error struct {
	Status int
	Text   string
}

func (e *Error) Error() string { return e.Text }

// Refuse makes an Error.
func Refuse(status int, format string, args ...any) *Error {
	return &Error{status, fmt.Sprintf(format, args...)}
}

// ConsumerStatus is a consumer. Nothing in it opens anything.
type ConsumerStatus struct {
	Name   string            `json:"name"`
	Plan   string            `json:"plan,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	Origin string            `json:"origin"` // a file's place, a KV key, state_dir; "": there is none, but there are keys
	Keys   int               `json:"keys"`
	JWT    []Subject         `json:"jwt,omitempty"`
	Users  []string          `json:"users,omitempty"` // of its basic blocks
	SANs   []string          `json:"sans,omitempty"`  // of its mtls blocks
}

// Subject is whom tokens are about.
type Subject struct {
	Subject string `json:"subject"`
	Issuer  string `json:"issuer,omitempty"`
}

// ConsumerPage is a part of the consumers, sorted by name.
type ConsumerPage struct {
	Consumers []ConsumerStatus `json:"consumers"`
	Next      string           `json:"next,omitempty"` // what after is for the next page; "": this is the last
}

// ConsumerInput is a consumer to be: as a document in the configuration language,
// or, if that is empty, by its parts.
type ConsumerInput struct {
	Document string            `json:"-"`
	Plan     string            `json:"plan"`
	Priority string            `json:"priority"`
	Use      []string          `json:"use"`
	Labels   map[string]string `json:"labels"`
	JWT      []Subject         `json:"jwt"`
	MTLS     []SANInput        `json:"mtls"`
}

// SANInput is an mtls block.
type SANInput struct {
	SAN string `json:"san"`
}

// KeyStatus is a key. Nobody can make the key of it.
type KeyStatus struct {
	Consumer string    `json:"consumer"`
	ID       string    `json:"id"` // the first digits of its SHA-256
	Created  time.Time `json:"created,omitzero"`
	Expires  time.Time `json:"expires,omitzero"`
	Revoked  time.Time `json:"revoked,omitzero"`
	State    string    `json:"state"`  // active, expired, revoked, no consumer
	Origin   string    `json:"origin"` // consul, state_dir, or where it is configured
	Note     string    `json:"note,omitempty"`
}

// KeyPage is a part of the keys, by consumer.
type KeyPage struct {
	Keys []KeyStatus `json:"keys"`
	Next string      `json:"next,omitempty"`
}

// NewKey is a key that has just been made. Its secret is in no other answer.
type NewKey struct {
	Secret string `json:"key"`
	KeyStatus
	Replaces *KeyStatus `json:"replaces,omitempty"`
}

const (
	pageUsual = 100
	pageMost  = 1000
	maxBody   = 512 << 10
)

// consumerRoutes adds what there is of consumers and keys.
func (s *Server) consumerRoutes(m *http.ServeMux, changes bool) {
	g := s.Gateway
	m.HandleFunc("GET /api/consumers", s.answer(func(r *http.Request) (any, error) {
		limit, err := limitOf(r)
		if err != nil {
			return nil, err
		}
		return g.Consumers(r.FormValue("after"), limit), nil
	}))
	m.HandleFunc("GET /api/consumers/{name}", s.answer(func(r *http.Request) (any, error) { return g.Consumer(r.PathValue("name")) }))
	m.HandleFunc("GET /api/keys", s.answer(func(r *http.Request) (any, error) {
		limit, err := limitOf(r)
		if err != nil {
			return nil, err
		}
		return g.Keys(r.Context(), r.FormValue("consumer"), r.FormValue("after"), limit)
	}))
	if !changes {
		return
	}
	m.HandleFunc("PUT /api/consumers/{name}", s.answer(func(r *http.Request) (any, error) {
		in, err := consumerInput(r)
		if err != nil {
			return nil, err
		}
		return g.PutConsumer(r.Context(), r.PathValue("name"), in)
	}))
	m.HandleFunc("DELETE /api/consumers/{name}", s.answer(func(r *http.Request) (any, error) {
		return map[string]bool{"deleted": true}, g.DeleteConsumer(r.Context(), r.PathValue("name"))
	}))
	m.HandleFunc("POST /api/keys", s.answer(func(r *http.Request) (any, error) {
		return g.CreateKey(r.Context(), r.URL.Query().Get("consumer"), r.URL.Query().Get("expires"))
	}))
	m.HandleFunc("POST /api/keys/{id}/rotate", s.answer(func(r *http.Request) (any, error) {
		return g.RotateKey(r.Context(), r.PathValue("id"), r.URL.Query().Get("overlap"), r.URL.Query().Get("expires"))
	}))
	m.HandleFunc("DELETE /api/keys/{id}", s.answer(func(r *http.Request) (any, error) {
		return g.RevokeKey(r.Context(), r.PathValue("id"))
	}))
}

// answer makes a handler of what gives an answer.
func (s *Server) answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err == nil {
			s.json(w, http.StatusOK, v)
			return
		}
		status := http.StatusInternalServerError
		var e *Error
		if errors.As(err, &e) {
			status = e.Status
		}
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, err.Error(), status)
	}
}

func limitOf(r *http.Request) (int, error) {
	text := r.FormValue("limit")
	if text == "" {
		return pageUsual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > pageMost {
		return 0, Refuse(http.StatusBadRequest, "limit: %.20q isn't a number from 1 to %d", text, pageMost)
	}
	return n, nil
}

// consumerInput reads a consumer: JSON, or the configuration language.
func consumerInput(r *http.Request) (ConsumerInput, error) {
	var in ConsumerInput
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return in, Refuse(http.StatusBadRequest, "the body can't be read: %v", err)
	}
	if len(body) > maxBody {
		return in, Refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", maxBody)
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		in.Document = string(body)
		if len(body) == 0 {
			return in, Refuse(http.StatusBadRequest, "the body is empty: send consumer %q { … }, or JSON as application/json", r.PathValue("name"))
		}
		return in, nil
	}
	if err := strict(body, &in); err != nil {
		return in, Refuse(http.StatusBadRequest, "the body isn't a consumer: %v", err)
	}
	return in, nil
}

// strict decodes JSON with no field that v hasn't got.
func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is more behind it")
	}
	return nil
}
