package proxy

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portOwner says which process listens on a TCP port, as far as /proc tells:
// `nginx (pid 812)`, or "" when it can't be known.
func portOwner(port int) string {
	inode := ""
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if inode = listeningInode(table, port); inode != "" {
			break
		}
	}
	if inode == "" {
		return ""
	}
	want := "socket:[" + inode + "]"
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	owner := ""
	for _, l := range links {
		if to, err := os.Readlink(l); err != nil || to != want {
			continue
		}
		dir := filepath.Dir(filepath.Dir(l))
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			return ""
		}
		owner = fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(dir))
		if filepath.Base(dir) != "1" { // systemd keeps duplicates of a service's sockets
			break
		}
	}
	return owner
}

// listeningInode finds the socket of a listening port in /proc/net/tcp.
func listeningInode(table string, port int) string {
	f, err := os.Open(table)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		col := strings.Fields(s.Text())
		if len(col) < 10 || col[3] != "0A" { // TCP_LISTEN
			continue
		}
		_, hex, _ := strings.Cut(col[1], ":")
		if n, err := strconv.ParseInt(hex, 16, 32); err == nil && int(n) == port {
			return col[9]
		}
	}
	return ""
}
