package tls

import (
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/smallstep/truststore"
)

// LocalRoot returns the local authority's root below a state directory, making
// it if there is none. It is for commands; a gateway's Manager has its own.
func LocalRoot(stateDir string) (certPEM []byte, path string, err error) {
	a, err := newAuthority(filepath.Join(stateDir, "ca"), time.Now)
	if err != nil {
		return nil, "", err
	}
	return a.pem, a.rootFile(), a.err
}

// TrustLocal lets this machine's system store, and the Firefox and NSS stores
// of the user who calls, trust the local authority's root. It asks for
// privileges where the system wants them.
func TrustLocal(stateDir string) error {
	return withRoot(stateDir, func(root *x509.Certificate) error {
		return truststore.Install(root, truststore.WithFirefox(), truststore.WithPrefix("sidegate"))
	})
}

// UntrustLocal takes the root out of those stores.
func UntrustLocal(stateDir string) error {
	return withRoot(stateDir, func(root *x509.Certificate) error {
		return truststore.Uninstall(root, truststore.WithFirefox(), truststore.WithPrefix("sidegate"))
	})
}

func withRoot(stateDir string, f func(*x509.Certificate) error) error {
	a, err := newAuthority(filepath.Join(stateDir, "ca"), time.Now)
	if err == nil {
		err = a.err // a root that only we have in memory is not worth trust
	}
	if err != nil {
		return err
	}
	if err := f(a.root); err != nil {
		var cmd *truststore.CmdError
		if errors.As(err, &cmd) {
			return fmt.Errorf("changing the trust store: %s: %w", cmd.Cmd(), err)
		}
		return fmt.Errorf("changing the trust store: %w", err)
	}
	return nil
}
