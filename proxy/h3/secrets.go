package h3

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/quic-go/quic-go"
)

// Secrets are what the ports of a gateway share, and what outlives a reload.
// The keys among them should outlive the process, too (see OpenSecrets): then
// the clients of a process that has ended learn from the next one that their
// connection is gone (stateless reset, RFC 9000, 10.3), and don't have to prove
// their address again (8.1.3). Who has them can end clients' connections, and
// pass for a client at another address; what is said stays unknown to him.
type Secrets struct {
	reset quic.StatelessResetKey
	token quic.TokenGeneratorKey
	ids   [16]byte // hides whose a connection id is

	// Of this process only. The register stays behind with a process: what it
	// has on early data is worth one round trip to each client that comes back.
	generation uint32 // in its connection ids
	register   *register
}

// NewSecrets makes new ones.
func NewSecrets() *Secrets {
	s := ofProcess()
	rand.Read(s.reset[:]) // never fails
	rand.Read(s.token[:])
	rand.Read(s.ids[:])
	return s
}

func ofProcess() *Secrets {
	var b [4]byte
	rand.Read(b[:])
	return &Secrets{generation: binary.BigEndian.Uint32(b[:]), register: newRegister()}
}

// secretsMagic is what Bytes begins with; it changes with what follows.
const secretsMagic = "sidegate h3 secrets 1\n"

// Bytes are the keys, for ParseSecrets in another process.
func (s *Secrets) Bytes() []byte {
	b := append([]byte(secretsMagic), s.reset[:]...)
	b = append(b, s.token[:]...)
	return append(b, s.ids[:]...)
}

// ParseSecrets makes Secrets of what Bytes returned in another process.
func ParseSecrets(b []byte) (*Secrets, error) {
	s := ofProcess()
	const n = len(secretsMagic)
	if len(b) != n+len(s.reset)+len(s.token)+len(s.ids) || string(b[:n]) != secretsMagic {
		return nil, errors.New("these are no secrets of QUIC, or those of another version")
	}
	b = b[n+copy(s.reset[:], b[n:]):]
	b = b[copy(s.token[:], b):]
	copy(s.ids[:], b)
	return s, nil
}

// String keeps them out of logs.
func (s *Secrets) String() string { return "<secret>" }

// OpenSecrets reads the keys from a file, or makes it (mode 0600) when it isn't
// there. Two processes that do so at once end up with the same keys.
func OpenSecrets(file string) (*Secrets, error) {
	for {
		b, err := os.ReadFile(file)
		if err == nil {
			s, err := ParseSecrets(b)
			if err != nil {
				return nil, fmt.Errorf("%s: %w: remove it, and new ones are made", file, err)
			}
			return s, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		s := NewSecrets()
		switch err := s.keep(file); {
		case err == nil:
			return s, nil
		case !errors.Is(err, fs.ErrExist):
			return nil, err
		}
	}
}

// keep writes the file whole or not at all; not over one that is there.
func (s *Secrets) keep(file string) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".quic-*") // its mode is 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a name too many does no harm
	_, err = f.Write(s.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), file)
}
