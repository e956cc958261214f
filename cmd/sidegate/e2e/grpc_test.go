package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// interop runs one case of grpc-go's interoperability client.
func interop(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool(t, "grpc-interop-client"), append([]string{"-server_host=127.0.0.1"}, args...)...).CombinedOutput()
	return string(out), err
}

// TestGRPC runs grpc-go's interoperability cases through the gateway, over TLS
// and over h2c, to an h2c backend.
func TestGRPC(t *testing.T) {
	real(t)
	p := ports(t, 5)[3] // beyond the gateway's three
	start(t, tool(t, "grpc-interop-server"), fmt.Sprintf("-port=%d", p))
	eventually(t, "gRPC server", func() error { return dial(p) })
	g := newGateway(t, fmt.Sprintf(`
service "grpc" {
  instances = ["127.0.0.1:%d"]
  protocol  = "h2c"
}
service "none" {
  instances = ["127.0.0.1:1"]
  protocol  = "h2c"
}
route "grpc" {
  hosts   = ["grpc.test", "127.0.0.1"]
  service = "grpc"
}
route "none" {
  hosts   = ["none.test"]
  service = "none"
}`, p)).start(t)
	if _, err := fetch(g.client(true), "https://grpc.test/"); err == nil { // makes the local authority
		t.Fatal("a gRPC server answered a GET")
	}
	file := filepath.Join(g.dir, "state", "ca", "root.pem")
	for _, way := range []struct {
		name string
		args []string
	}{
		{"tls", []string{fmt.Sprintf("-server_port=%d", g.https), "-use_tls=true", "-use_test_ca=true", "-ca_file=" + file}},
		{"h2c", []string{fmt.Sprintf("-server_port=%d", g.http)}},
	} {
		for _, test := range []string{
			"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "custom_metadata",
			"status_code_and_message", "special_status_message", "unimplemented_method", "unimplemented_service",
			"cancel_after_begin", "cancel_after_first_response", "timeout_on_sleeping_server",
		} {
			t.Run(way.name+"/"+test, func(t *testing.T) {
				args := append(way.args[:len(way.args):len(way.args)], "-test_case="+test)
				if way.name == "tls" {
					args = append(args, "-server_host_override=grpc.test")
				}
				if out, err := interop(t, args...); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			})
		}
	}
	out, err := interop(t, fmt.Sprintf("-server_port=%d", g.https), "-use_tls=true", "-use_test_ca=true", "-ca_file="+file,
		"-server_host_override=none.test", "-test_case=empty_unary")
	if err == nil || !strings.Contains(out, "code = Unavailable") {
		t.Errorf("no backend: %v: %s; want Unavailable", err, out)
	}
}
