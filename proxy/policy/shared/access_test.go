package shared

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRedisAccess: passwords, users, databases, unix sockets and TLS.
func TestRedisAccess(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	socket := filepath.Join(dir, "s")
	s := newServer(t, "--requirepass", "right", "--user", "sidegate", "on", ">mine", "~sidegate:*", "-@all", "+eval", "+evalsha", "+time", "+get", "+set", "+expireat", "--unixsocket", socket,
		"--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "optional")
	secure := "127.0.0.1:" + port
	for _, tt := range []struct {
		name   string
		config RedisConfig
		err    string
	}{
		{"password", RedisConfig{Address: s.address(), Password: "right"}, ""},
		{"database", RedisConfig{Address: s.address(), Password: "right", DB: 3}, ""},
		{"no such database", RedisConfig{Address: s.address(), Password: "right", DB: 99}, "DB index"},
		{"user", RedisConfig{Address: s.address(), Username: "sidegate", Password: "mine"}, ""},
		{"no password", RedisConfig{Address: s.address()}, "NOAUTH"},
		{"wrong password", RedisConfig{Address: s.address(), Password: "wrong"}, "WRONGPASS"},
		{"socket", RedisConfig{Address: "unix://" + socket, Password: "right"}, ""},
		{"TLS", RedisConfig{Address: secure, Password: "right", TLS: &RedisTLSConfig{CAFile: cert}}, ""},
		{"TLS with a certificate", RedisConfig{Address: secure, Password: "right", TLS: &RedisTLSConfig{CAFile: cert, CertFile: cert, KeyFile: key}}, ""},
		{"TLS of nobody we know", RedisConfig{Address: secure, Password: "right", TLS: &RedisTLSConfig{}}, "certificate"},
		{"TLS of another name", RedisConfig{Address: secure, Password: "right", TLS: &RedisTLSConfig{CAFile: cert, ServerName: "other.test"}}, "certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := redisFleet(t, tt.config).Take([]Ask{{Key: "a", Cost: 1, Interval: time.Millisecond, Burst: 100}})
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Take = %v, want %q", err, tt.err)
			}
			if err != nil && tt.config.Password != "" && strings.Contains(err.Error(), tt.config.Password.Reveal()) {
				t.Errorf("the error has the password in it: %v", err)
			}
		})
	}
	for _, c := range []RedisTLSConfig{{CAFile: "/nosuch"}, {CAFile: key + ".none"}, {CertFile: cert}, {CertFile: cert, KeyFile: cert}, {CAFile: os.DevNull}} {
		if _, err := NewRedis(RedisConfig{Address: secure, TLS: &c}); err == nil || !strings.HasPrefix(err.Error(), "redis: tls: ") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// certificate writes one for 127.0.0.1 that is its own authority.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: text}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestRedisConfig(t *testing.T) {
	for _, tt := range []struct {
		config RedisConfig
		want   string
	}{
		{RedisConfig{Address: "redis.internal:6379"}, ""},
		{RedisConfig{Address: "[::1]:6379"}, ""},
		{RedisConfig{Address: "unix:///run/redis.sock"}, ""},
		{RedisConfig{Address: "redis"}, "address: \"redis\" isn't host:port"},
		{RedisConfig{Address: ":6379"}, "isn't host:port"},
		{RedisConfig{Address: "redis:0"}, "has no port"},
		{RedisConfig{Address: "redis://a:6379"}, "isn't host:port"},
		{RedisConfig{Address: "unix://redis"}, "starts with /"},
		{RedisConfig{Address: "unix:///a", TLS: &RedisTLSConfig{}}, "tls: a unix socket needs none"},
		{RedisConfig{Address: "a:1", Username: "x"}, "username: without a password"},
	} {
		if err := tt.config.Check(); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.config, err, tt.want)
		}
	}
}
