package consumer

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// The bounds of what checking a password may cost. A hash of the configuration
// beyond them is refused when it is loaded.
const (
	maxCost    = 14        // of bcrypt: about a second
	maxMemory  = 256 << 10 // KiB of argon2id
	maxTime    = 10
	maxThreads = 16

	// bcrypt looks at so many bytes: more would be right whatever they are.
	maxBcrypt = 72
)

// Password is what is known of a user's password: enough to check one, slowly.
// It never changes.
type Password struct {
	Consumer *exchange.Consumer
	Hash     string // as it stands in the configuration

	argon *argonHash // nil: bcrypt
}

type argonHash struct {
	memory, time uint32
	threads      uint8
	salt, sum    []byte
}

// Check reports whether the password is right. It takes a tenth of a second or
// so, and for argon2id the memory that the hash says.
func (p *Password) Check(password []byte) bool {
	if a := p.argon; a != nil {
		sum := argon2.IDKey(password, a.salt, a.time, a.memory, a.threads, uint32(len(a.sum)))
		return subtle.ConstantTimeCompare(sum, a.sum) == 1
	}
	return len(password) <= maxBcrypt && bcrypt.CompareHashAndPassword([]byte(p.Hash), password) == nil
}

// password reads a basic block. Its error begins with the argument's name.
func (c *BasicConfig) password() (*Password, error) {
	if i := strings.IndexFunc(c.User, func(r rune) bool { return r < ' ' || r == 0x7f || r == ':' }); i >= 0 || c.User == "" {
		return nil, fmt.Errorf("user: %q can't be a user's name: it is empty, or has a colon or a control character (RFC 7617, 2)", c.User)
	}
	switch {
	case c.Bcrypt == "" && c.Argon2id == "":
		return nil, errors.New("user: has no password: write bcrypt or argon2id")
	case c.Bcrypt != "" && c.Argon2id != "":
		return nil, errors.New("argon2id: there is bcrypt already")
	case c.Argon2id != "":
		a, err := parseArgon(c.Argon2id)
		if err != nil {
			return nil, fmt.Errorf("argon2id: %w", err)
		}
		return &Password{Hash: c.Argon2id, argon: a}, nil
	}
	cost, err := bcrypt.Cost([]byte(c.Bcrypt))
	switch {
	case err != nil || len(c.Bcrypt) != 60 || !strings.HasPrefix(c.Bcrypt, "$2"):
		return nil, errors.New("bcrypt: isn't a hash such as $2y$10$…, of 60 characters")
	case cost > maxCost:
		return nil, fmt.Errorf("bcrypt: of cost %d takes too long to check; at most %d is allowed", cost, maxCost)
	}
	return &Password{Hash: c.Bcrypt}, nil
}

// Check reports what is wrong with a basic block by itself.
func (c *BasicConfig) Check() error {
	_, err := c.password()
	return err
}

// parseArgon reads $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH.
func parseArgon(text string) (*argonHash, error) {
	wrong := errors.New("isn't a hash such as $argon2id$v=19$m=65536,t=3,p=4$…$…")
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) || len(text) > 512 {
		return nil, wrong
	}
	a := &argonHash{}
	var threads uint32
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &a.memory, &a.time, &threads); err != nil || n != 3 ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", a.memory, a.time, threads) {
		return nil, wrong
	}
	if threads < 1 || threads > maxThreads || a.time < 1 || a.time > maxTime || a.memory < 8*threads || a.memory > maxMemory {
		return nil, fmt.Errorf("costs too much to check, or nothing: m from 8 for each thread to %d (KiB), t from 1 to %d, p from 1 to %d are allowed", maxMemory, maxTime, maxThreads)
	}
	a.threads = uint8(threads)
	var err, err2 error
	a.salt, err = base64.RawStdEncoding.DecodeString(parts[4])
	a.sum, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || err2 != nil || len(a.salt) < 8 || len(a.sum) < 16 {
		return nil, wrong
	}
	return a, nil
}

// User returns what is known of a user's password; ok is false for a user that
// nobody knows, with another's password, so that checking it takes as long;
// nil: there are no users.
func (d *Directory) User(name []byte) (p *Password, ok bool) {
	if d == nil {
		return nil, false
	}
	if p, ok := d.users[string(name)]; ok {
		return p, true
	}
	p, ok = d.beside().User(name)
	if !ok && d.decoy != nil {
		p = d.decoy
	}
	return p, ok
}
