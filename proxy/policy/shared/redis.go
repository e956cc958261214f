package shared

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis's name for a script
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// RedisConfig is a redis block: where the nodes of a fleet count together.
type RedisConfig struct {
	// host:port of the server, or unix:///path.
	Address string `hcl:"address,attr" default:"127.0.0.1:6379"`
	// Name of an ACL user.
	Username string `hcl:"username,attr"`
	// Its password, or that of the server.
	Password secret.String `hcl:"password,attr"`
	// Number of the database.
	DB int `hcl:"db,attr" default:"0" min:"0" max:"1000000"`
	// How long a request waits for an answer. When that passes, no request asks until the server answers again; meanwhile limits hold as their when_down says.
	Timeout time.Duration `hcl:"timeout,attr" default:"50ms" min:"1ms" max:"10s"`
	// The most connections of a node.
	Connections int `hcl:"connections,attr" default:"64" min:"1" max:"10000"`
	// Speak TLS with the server; without this block, plain.
	TLS *RedisTLSConfig `hcl:"tls,block"`
}

// RedisTLSConfig is the tls block of a redis block.
type RedisTLSConfig struct {
	// The name to ask for and to verify; the address's host unless given.
	ServerName string `hcl:"server_name,attr"`
	// Authorities to trust instead of the system's, PEM.
	CAFile string `hcl:"ca_file,attr"`
	// Our certificate, PEM.
	CertFile string `hcl:"cert_file,attr"`
	// Its key, PEM.
	KeyFile string `hcl:"key_file,attr"`
}

// script decides about all counters of a request, and takes of all or of none.
// Times are those of Redis, in eighths of a microsecond since 2026: numbers of
// Lua hold them exactly until 2061. A rate's value is when its bucket will be
// full; should Redis's clock be set back, a bucket is empty at worst, from then on. A quota's
// value is what was used.
//
// ARGV has six numbers for each key: cost, whether it's a dry run, interval and
// burst, or 0, limit, what is owed, and when it ends.
const script = `
local t = redis.call('TIME')
local now = (tonumber(t[1]) - 1767225600) * 8000000 + tonumber(t[2]) * 8
local refused = false
local value, ok = {}, {}
for i, key in ipairs(KEYS) do
  local a = 6 * (i - 1)
  local cost, dry, interval, size, owed = tonumber(ARGV[a+1]), ARGV[a+2] == '1', tonumber(ARGV[a+3]), tonumber(ARGV[a+4]), tonumber(ARGV[a+5])
  local v = tonumber(redis.call('GET', key) or 0)
  if interval > 0 then
    local most = now + interval * size
    if v > most then
      v = most
      redis.call('SET', key, string.format('%.0f', v), 'PX', string.format('%.0f', math.ceil((v - now) / 8000) + 1))
    end
    v = math.max(v, now)
    ok[i] = v - now <= interval * (size - cost)
  else
    v = v + owed
    ok[i] = v + cost <= size
  end
  value[i] = v
  refused = refused or not (ok[i] or dry)
end
local out = {}
for i, key in ipairs(KEYS) do
  local a = 6 * (i - 1)
  local cost, interval, owed = tonumber(ARGV[a+1]), tonumber(ARGV[a+3]), tonumber(ARGV[a+5])
  local take = ok[i] and not refused
  if interval > 0 then
    if take and cost > 0 then
      value[i] = value[i] + interval * cost
      redis.call('SET', key, string.format('%.0f', value[i]), 'PX', string.format('%.0f', math.ceil((value[i] - now) / 8000) + 1))
    end
    value[i] = value[i] - now
  elseif take or owed > 0 then
    if take then value[i] = value[i] + cost end
    redis.call('SET', key, string.format('%.0f', value[i]))
    redis.call('EXPIREAT', key, ARGV[a+6])
  end
  out[2*i-1] = ok[i] and 1 or 0
  out[2*i] = value[i]
end
return out
`

const (
	// tick is the script's unit of time.
	tick = 125 * time.Nanosecond
	// keepQuota is how long after its end a quota's counter is kept, for a node
	// whose clock is behind.
	keepQuota = 40 * 24 * 3600
	prefix    = "sidegate:"
)

// Redis counts in a Redis server.
type Redis struct {
	*client
	sum string // what EVALSHA calls the script
}

var _ Backend = (*Redis)(nil)

// NewRedis returns a backend that connects when it is asked.
func NewRedis(c RedisConfig) (*Redis, error) {
	r := &Redis{client: newClient(c)}
	sum := sha1.Sum([]byte(script)) //nolint:gosec // Redis's name for it, not a signature
	r.sum = hex.EncodeToString(sum[:])
	if c.TLS != nil {
		var err error
		if r.tls, err = c.TLS.config(c.Address); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Take asks for all counters in one round trip.
func (r *Redis) Take(ctx context.Context, asks []Ask) error {
	args := make([]string, 0, 3+7*len(asks))
	args = append(args, "EVALSHA", r.sum, strconv.Itoa(len(asks)))
	for i := range asks {
		args = append(args, prefix+asks[i].Key)
	}
	number := func(n int64) { args = append(args, strconv.FormatInt(n, 10)) }
	for i := range asks {
		a := &asks[i]
		size, dry := a.Burst, int64(0)
		if a.quota() {
			size = a.Limit
		}
		if a.Dry {
			dry = 1
		}
		for _, n := range [...]int64{a.Cost, dry, ticks(a.Interval), size, a.Owed, a.Until + keepQuota} {
			number(n)
		}
	}
	out, err := r.do(ctx, args...)
	if isError(err, "NOSCRIPT") { // it hasn't run since the server started
		args[0], args[1] = "EVAL", script
		out, err = r.do(ctx, args...)
	}
	if err != nil {
		return err
	}
	if len(out) != 2*len(asks) {
		return fmt.Errorf("redis: the script gave %d numbers for %d counters", len(out), len(asks))
	}
	for i := range asks {
		a := &asks[i]
		a.OK, a.Owed = out[2*i] == 1, 0
		if a.quota() {
			a.Used = out[2*i+1]
		} else {
			a.Full = time.Duration(out[2*i+1]) * tick
		}
	}
	return nil
}

// Round is an interval as Redis counts with it.
func Round(d time.Duration) time.Duration { return time.Duration(ticks(d)) * tick }

// ticks is an interval in the script's unit, rounded up, so that never more
// passes than was written.
func ticks(d time.Duration) int64 { return int64((d + tick - 1) / tick) }

// Set says how much of a quota is used.
func (r *Redis) Set(ctx context.Context, a *Ask) error {
	_, err := r.do(ctx, "SET", prefix+a.Key, strconv.FormatInt(a.Used, 10), "EXAT", strconv.FormatInt(a.Until+keepQuota, 10))
	return err
}

// Probe writes: a replica that answers, or a server that is still loading, is of
// no use.
func (r *Redis) Probe(ctx context.Context) error {
	return r.Take(ctx, []Ask{{Key: "probe", Cost: 1, Dry: true, Interval: time.Millisecond, Burst: 1000}})
}

// Tidy does nothing: keys of Redis end by themselves.
func (r *Redis) Tidy(context.Context) error { return nil }

func (c *RedisTLSConfig) config(address string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if t.ServerName == "" {
		t.ServerName = host(address)
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("redis: tls: ca_file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis: tls: ca_file: %s has no certificate in PEM", c.CAFile)
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return nil, errors.New("redis: tls: cert_file and key_file go together")
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("redis: tls: cert_file: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
