package tls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
)

// issuer gets certificates by ACME (RFC 8555). It stands where certmagic's own
// ACMEIssuer could: that one opens listeners of its own for challenges, keeps
// them in package variables and writes to the standard logger.
type issuer struct {
	directory string
	email     string
	key       string // names the directory in storage
	client    *acmez.Client
	store     certmagic.Storage
	life      context.Context // ended by the unit; orders and questions end with it
	limit     *certmagic.RingBufferRateLimiter
	current   func(name string) *x509.Certificate // what a renewal replaces
	allowed   func(name string) error             // limits orders that strangers cause
	renewal   func(name string, info acme.RenewalInfo)
	log       *zap.Logger

	mu      sync.Mutex // held while registering; guards account
	account *acme.Account
}

// issueTimeout bounds one order, from first request to certificate.
const issueTimeout = 5 * time.Minute

func newACMEClient(directory string, roots *x509.CertPool, log *zap.Logger) *acmez.Client {
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 2 * time.Minute}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		ExpectContinueTimeout: 2 * time.Second,
		IdleConnTimeout:       time.Minute,
		MaxConnsPerHost:       16,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	return &acmez.Client{Client: &acme.Client{
		Directory:   directory,
		UserAgent:   "sidegate",
		HTTPClient:  &http.Client{Transport: transport, Timeout: 45 * time.Second},
		PollTimeout: issueTimeout,
		Logger: slog.New(zapslog.NewHandler(log.Core(), zapslog.WithName("client"),
			zapslog.AddStacktraceAt(slog.Level(127)))),
	}}
}

// IssuerKey implements certmagic.Issuer.
func (i *issuer) IssuerKey() string { return i.key }

// Issue implements certmagic.Issuer.
func (i *issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	defer context.AfterFunc(i.life, cancel)()
	if l, ok := i.store.(interface{ lost(string) <-chan struct{} }); ok {
		// Another gateway may order the same name once our lock is gone.
		if gone := l.lost("issue_cert_" + csrName(csr)); gone != nil {
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				select {
				case <-gone:
					cancel()
				case <-stop:
				}
			}()
		}
	}
	if err := i.allowed(csrName(csr)); err != nil {
		return nil, certmagic.ErrNoRetry{Err: err}
	}
	if err := i.limit.Wait(ctx); err != nil {
		return nil, err
	}
	chain, err := i.order(ctx, csr)
	var problem acme.Problem
	if errors.As(err, &problem) && problem.Type == acme.ProblemTypeAccountDoesNotExist {
		// The authority has lost our account, as test ones do at a restart.
		if err := i.forget(ctx); err != nil {
			return nil, err
		}
		chain, err = i.order(ctx, csr)
	}
	if err != nil {
		return nil, err
	}
	if info := chain.RenewalInfo; info != nil {
		i.renewal(csrName(csr), *info)
	}
	return &certmagic.IssuedCertificate{Certificate: chain.ChainPEM, Metadata: chain}, nil
}

func (i *issuer) order(ctx context.Context, csr *x509.CertificateRequest) (acme.Certificate, error) {
	account, err := i.register(ctx)
	if err != nil {
		return acme.Certificate{}, fmt.Errorf("account at %s: %w", i.directory, err)
	}
	params, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return acme.Certificate{}, err
	}
	// RFC 9773, 5: say which certificate this one replaces. An authority that
	// doesn't know it, or won't have it replaced, gets a plain order.
	params.Replaces = i.current(csrName(csr))
	chains, err := i.client.ObtainCertificate(ctx, params)
	if params.Replaces != nil && refusedOrder(err) {
		params.Replaces = nil
		chains, err = i.client.ObtainCertificate(ctx, params)
	}
	if err != nil {
		return acme.Certificate{}, err
	}
	if len(chains) == 0 {
		return acme.Certificate{}, errors.New("the authority sent no certificate")
	}
	return chains[0], nil
}

// refusedOrder reports whether the authority refused an order itself, rather
// than the validation of its name, or for the number of orders.
func refusedOrder(err error) bool {
	var problem acme.Problem
	if !errors.As(err, &problem) || problem.Type == acme.ProblemTypeRateLimited {
		return false
	}
	_, validation := problem.Resource.(acme.Authorization)
	return !validation && problem.Status < http.StatusInternalServerError
}

// csrName is the one name of a request; ours have one.
func csrName(csr *x509.CertificateRequest) string {
	if len(csr.DNSNames) > 0 {
		return csr.DNSNames[0]
	}
	return ""
}

// GetRenewalInfo implements certmagic.RenewalInfoGetter (RFC 9773).
func (i *issuer) GetRenewalInfo(ctx context.Context, cert certmagic.Certificate) (acme.RenewalInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	defer context.AfterFunc(i.life, cancel)()
	info, err := i.client.GetRenewalInfo(ctx, cert.Leaf)
	if err == nil && len(cert.Names) > 0 {
		i.renewal(cert.Names[0], info)
	}
	return info, err
}

// Revoke implements certmagic.Revoker.
func (i *issuer) Revoke(ctx context.Context, cert certmagic.CertificateResource, reason int) error {
	account, err := i.register(ctx)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert.CertificatePEM, cert.PrivateKeyPEM)
	if err != nil {
		return err
	}
	return i.client.RevokeCertificate(ctx, account, pair.Leaf, account.PrivateKey, reason)
}

func (i *issuer) accountFiles() (data, key string) {
	who := i.email
	if who == "" {
		who = "default"
	}
	dir := path.Join("acme", i.key, "accounts", certmagic.StorageKeys.Safe(who))
	return path.Join(dir, "account.json"), path.Join(dir, "account.key")
}

// register returns the account: the one in memory, the one in storage, or a
// new one, made while no other gateway of the fleet makes one.
func (i *issuer) register(ctx context.Context) (acme.Account, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.account != nil {
		return *i.account, nil
	}
	lock := "acme_account_" + i.key
	if err := i.store.Lock(ctx, lock); err != nil {
		return acme.Account{}, err
	}
	account, err := i.loadAccount(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		account, err = i.newAccount(ctx)
	}
	if uerr := i.store.Unlock(context.WithoutCancel(ctx), lock); uerr != nil {
		i.log.Warn("account lock", zap.Error(uerr))
	}
	if err != nil {
		return acme.Account{}, err
	}
	i.account = &account
	return account, nil
}

func (i *issuer) loadAccount(ctx context.Context) (acme.Account, error) {
	var account acme.Account
	data, key := i.accountFiles()
	b, err := i.store.Load(ctx, data)
	if err != nil {
		return account, err
	}
	keyPEM, err := i.store.Load(ctx, key)
	if err != nil {
		return account, err
	}
	if err := json.Unmarshal(b, &account); err != nil {
		return account, fmt.Errorf("%s: %w", data, err)
	}
	if account.PrivateKey, err = certmagic.PEMDecodePrivateKey(keyPEM); err != nil {
		return account, fmt.Errorf("%s: %w", key, err)
	}
	return account, nil
}

func (i *issuer) newAccount(ctx context.Context) (acme.Account, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return acme.Account{}, err
	}
	account := acme.Account{PrivateKey: key, TermsOfServiceAgreed: true}
	if i.email != "" {
		account.Contact = []string{"mailto:" + i.email}
	}
	keyPEM, err := certmagic.PEMEncodePrivateKey(key)
	if err != nil {
		return account, err
	}
	data, keyFile := i.accountFiles()
	// The key is stored first: should the disk be full, no account is made
	// that nobody could use again.
	if err := i.store.Store(ctx, keyFile, keyPEM); err != nil {
		return account, fmt.Errorf("storing its key: %w", err)
	}
	if account, err = i.client.NewAccount(ctx, account); err != nil {
		return account, fmt.Errorf("registering: %w", err)
	}
	b, err := json.Marshal(account)
	if err != nil {
		return account, err
	}
	if err := i.store.Store(ctx, data, b); err != nil {
		return account, fmt.Errorf("storing it: %w", err)
	}
	return account, nil
}

// forget drops an account that the authority doesn't know any more.
func (i *issuer) forget(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.account = nil
	data, key := i.accountFiles()
	return errors.Join(i.store.Delete(ctx, data), i.store.Delete(ctx, key))
}

var (
	_ certmagic.Issuer            = (*issuer)(nil)
	_ certmagic.Revoker           = (*issuer)(nil)
	_ certmagic.RenewalInfoGetter = (*issuer)(nil)
)
