package app

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// maxDocuments bounds the consumers that are put into Consul: they are watched
// together with routes, and 16 MiB are the most that is.
const maxDocuments = 8 << 20

// consumersFolder is where, below consul.kv, consumers are.
const consumersFolder = "consumers/"

// PutConsumer makes a consumer, or another of the one that there is.
func (a *App) PutConsumer(ctx context.Context, name string, in admin.ConsumerInput) (admin.ConsumerStatus, error) {
	s := a.keys
	var out admin.ConsumerStatus
	s.changing.Lock()
	defer s.changing.Unlock()
	at, err := s.place(name)
	if err != nil {
		return out, err
	}
	text := in.Document
	if text == "" {
		c := &consumer.Config{Name: name, Plan: in.Plan, Priority: in.Priority, Use: in.Use, Labels: in.Labels}
		for _, j := range in.JWT {
			c.JWT = append(c.JWT, &consumer.JWTConfig{Subject: j.Subject, Issuer: j.Issuer})
		}
		for _, m := range in.MTLS {
			c.MTLS = append(c.MTLS, &consumer.MTLSConfig{SAN: m.SAN})
		}
		text = string(config.FormatConsumer(c))
	}
	if err := s.fits(name, at, text); err != nil {
		return out, err
	}
	if at.from == consumer.FromConsul && s.size()+len(text) > maxDocuments {
		return out, admin.Refuse(http.StatusConflict, "the consumers in Consul have more than %d bytes together; those beyond belong into files", maxDocuments)
	}
	if err := s.write(ctx, at, text); err != nil {
		return out, refusal(err)
	}
	s.log.WithFields(logrus.Fields{"consumer": name, "where": at.String()}).Info("consumer changed by an operator")
	return a.consumer(name), nil
}

// DeleteConsumer takes out a consumer, and its keys with it.
func (a *App) DeleteConsumer(ctx context.Context, name string) error {
	s := a.keys
	if err := s.use(ctx); err != nil {
		return err
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	at, err := s.place(name)
	if err != nil {
		return err
	}
	_, _, known := s.find(name)
	keys := s.ring.Of(name)
	if !known && len(keys) == 0 {
		return s.nobody(name)
	}
	if known { // first: without it, nobody gets in by its keys either
		if err := s.write(ctx, at, ""); err != nil {
			return refusal(err)
		}
	}
	gone := map[consumer.Origin]bool{}
	for _, k := range keys {
		if gone[k.From] {
			continue
		}
		gone[k.From] = true
		err := s.change(ctx, k.From, name, func(r *consumer.Record) error { r.Keys = nil; return nil })
		if err != nil {
			return admin.Refuse(http.StatusServiceUnavailable, "consumer %q is gone, and nobody gets in by its keys, but they are still kept: %v", name, err)
		}
	}
	s.log.WithField("consumer", name).Info("consumer deleted by an operator")
	return nil
}

// place is where a consumer stands, or is to stand. It is an error if that isn't
// a place that the gateway writes to.
func (s *keyStore) place(name string) (document, error) {
	k, inFile, ok := s.find(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if inFile {
		return document{}, admin.Refuse(http.StatusConflict, "consumer %q stands in %s: change it there", name, s.documents.files.Origin(k.Config))
	}
	own := document{consumer.FromDisk, name}
	if _, kv, shared := s.shared(); shared {
		own = document{consumer.FromConsul, kv + consumersFolder + keyOf(name)}
	}
	at, used := own, false
	if ok {
		at, used = s.documents.places[k.Config], true
	}
	// A document that somebody wrote by hand may have others in it, or another name.
	alone := at == own || at == document{consumer.FromDisk, name}
	if used && alone && len(s.documents.parsed[at].list) > 1 || used && !alone {
		return document{}, admin.Refuse(http.StatusConflict, "consumer %q stands in %s, which the gateway didn't write: change it there", name, at)
	}
	return at, nil
}

// fits checks a consumer's document before it is written.
func (s *keyStore) fits(name string, at document, text string) error {
	list, diags := config.ParseConsumers("consumer", []byte(text), s.options)
	if diags.HasErrors() {
		return admin.Refuse(http.StatusBadRequest, "%s", strings.TrimSpace(diags.String()))
	}
	if len(list) != 1 || list[0].Name != name {
		return admin.Refuse(http.StatusBadRequest, "the document has to be of one block, consumer %q { … }", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range list[0].Use {
		if !slices.Contains(s.sets, set) {
			return admin.Refuse(http.StatusConflict, "%s", strings.TrimSuffix(fmt.Sprintf("there is no policy %q that consumers may use. %s", set, config.DidYouMean(set, s.sets)), ". "))
		}
	}
	d := documents{texts: s.documents.texts, files: s.documents.files, parsed: s.documents.parsed}
	d.set(at.from, at.key, "")
	others, _, _ := d.candidates(s.options)
	c, err := withIssuer(list[0], d.files.Issuers())
	if err != nil {
		return admin.Refuse(http.StatusBadRequest, "%v", err)
	}
	if _, left := s.documents.known.Extend(append(others, c)); left[len(others)] != nil {
		return admin.Refuse(http.StatusConflict, "%v", left[len(others)])
	}
	return nil
}

// write keeps a consumer's document, "" for none, and waits until it holds here.
func (s *keyStore) write(ctx context.Context, at document, text string) error {
	if at.from == consumer.FromDisk {
		if err := s.disk.Put(at.key, text); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.documents.set(at.from, at.key, text)
		s.combine()
		return nil
	}
	c, _, ok := s.shared()
	if !ok {
		return admin.Refuse(http.StatusServiceUnavailable, "the consumer is kept in Consul, and there is none any more")
	}
	store, err := c.Store("")
	if err != nil {
		return err
	}
	if err := put(ctx, store, at.key, text); err != nil {
		return err
	}
	t := time.NewTimer(seenTime)
	defer t.Stop()
	for {
		changed := s.ring.Changed()
		s.mu.Lock()
		now := s.documents.texts[at.from][at.key]
		s.mu.Unlock()
		if now == text {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			return nil
		case <-changed:
		}
	}
}

func put(ctx context.Context, store *consul.Store, key, text string) error {
	ctx, cancel := context.WithTimeout(ctx, keysTime)
	defer cancel()
	return store.Change(ctx, key, func([]byte) ([]byte, error) {
		if text == "" {
			return nil, nil
		}
		return []byte(text), nil
	})
}
