package h2

import (
	"io"

	"golang.org/x/net/http2"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// join connects the client with the backend until both directions have ended,
// or one has failed. The goroutine that it starts ends before it returns.
func (st *stream) join(x *exchange.Exchange) error {
	c := st.c
	c.mu.Lock()
	st.answered = true
	err := st.sendHead(st.block, false)
	c.flush()
	if err != nil {
		_ = x.Tunnel.Close() // the client's error is told
		return st.ended(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		st.upload(x)
	}()
	err = st.download(x)
	c.mu.Lock()
	st.shut() // ends upload's read
	c.mu.Unlock()
	_ = x.Tunnel.Close() // and its write; what it says doesn't matter any more
	<-done
	c.mu.Lock()
	if err == nil {
		st.close()
	} else {
		st.abort(http2.ErrCodeCancel)
	}
	c.flush()
	return asFault(err)
}

// upload copies what the client sends. The client's end closes the tunnel, as a
// websocket knows no half-closed state that anybody would miss.
func (st *stream) upload(x *exchange.Exchange) {
	c := st.c
	buf := c.pools.get(midBuffer)
	defer c.pools.put(buf)
	for {
		c.mu.Lock()
		n, err := st.read(buf[:midBuffer])
		c.flush()
		if n > 0 {
			x.BytesIn += int64(n)
			if _, werr := x.Tunnel.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			_ = x.Tunnel.Close() // download sees it
			return
		}
	}
}

// download copies what the backend sends.
func (st *stream) download(x *exchange.Exchange) error {
	c := st.c
	buf := c.pools.get(midBuffer)
	defer c.pools.put(buf)
	for {
		n, err := x.Tunnel.Read(buf[:midBuffer])
		c.mu.Lock()
		last := err != nil
		if n > 0 || last {
			err = st.send(buf[:n], last)
		}
		c.flush()
		if err == nil {
			x.BytesOut += int64(n)
		}
		if last || err != nil {
			if err == io.EOF {
				err = nil
			}
			return err
		}
	}
}
