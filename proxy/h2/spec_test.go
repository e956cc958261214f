package h2

import (
	"net"
	"os/exec"
	"strings"
	"testing"
)

// TestH2spec runs all of h2spec.
func TestH2spec(t *testing.T) {
	for _, secure := range []bool{false, true} {
		name := "h2c"
		if secure {
			name = "tls"
		}
		t.Run(name, func(t *testing.T) {
			bin := tool(t, "h2spec")
			noLeaks(t)
			s := serve(t, FrontConfig{Handler: handlerFunc(echo)}, secure)
			host, port, _ := net.SplitHostPort(s.addr)
			args := []string{"-h", host, "-p", port, "-o", "5", "-S"}
			if secure {
				args = append(args, "-t", "-k")
			}
			out, err := exec.Command(bin, args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), " 0 failed") {
				t.Fatalf("h2spec: %v\n%s", err, tail(string(out)))
			}
		})
	}
}

func tail(s string) string {
	if i := strings.Index(s, "Failures:"); i >= 0 {
		return s[i:]
	}
	return s
}
