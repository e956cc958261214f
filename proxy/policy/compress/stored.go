package compress

import (
	"bytes"
	"slices"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// mostThorough is up to which length what is kept is encoded thoroughly; the
	// client that asks first waits for it.
	mostThorough = 2 << 20
	// thoroughMemory is what one takes beside its output.
	thoroughMemory = 8 << 20
)

// kept gives x the stored content in that coding, made once for all who ask. It
// reports whether it has.
func (p *Policy) kept(x *exchange.Exchange, c coding) bool {
	content := x.ResponseLength
	b, ok := x.Stored.Encoded(names[c], p.thorough[c])
	if !ok || x.ResponseTrailer.Len() > 0 { // which HTTP/1.1 has only behind chunks
		return false
	}
	p.mark(x, c)
	x.Replace(b)
	n := &p.counts.byCoding[c]
	n.responses.Add(1)
	n.in.Add(uint64(max(content, 0)))
	n.out.Add(uint64(len(b)))
	return true
}

// encoded makes what kept keeps.
func (p *Policy) encoded(c coding, content []byte) (b []byte, ok bool) {
	if !p.long(int64(len(content))) || !p.store.enter(c) {
		return nil, false
	}
	defer p.store.leave(c)
	if len(content) <= mostThorough && p.store.take(thoroughMemory) {
		defer p.store.used.Add(-thoroughMemory)
		b, err := p.store.thorough(c, content)
		return b, err == nil
	}
	enc, err := p.store.coder(c)
	if err != nil {
		return nil, false
	}
	defer p.store.coders[c].Put(enc)
	if b, err = enc.write(nil, content); err == nil {
		b, err = enc.finish(b)
	}
	return slices.Clip(b), err == nil
}

// thorough encodes with levels that save more than those for what passes once: on
// JSON of 100 kB, zstd 230 MB/s to 25 %, gzip 180 MB/s to 28 %, br 30 MB/s to 23 %.
func (s *Store) thorough(c coding, content []byte) ([]byte, error) {
	if c == zstdCoding {
		enc, ok := s.thoroughZstd.Get().(*zstd.Encoder)
		if !ok {
			var err error
			enc, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(mostThorough/2),
				zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
			if err != nil {
				return nil, err
			}
		}
		defer s.thoroughZstd.Put(enc)
		return enc.EncodeAll(content, nil), nil
	}
	var out bytes.Buffer
	var w interface {
		Write(p []byte) (int, error)
		Close() error
	}
	if c == gzipCoding {
		var err error
		if w, err = gzip.NewWriterLevel(&out, 6); err != nil {
			return nil, err
		}
	} else {
		w = brotli.NewWriterOptions(&out, brotli.WriterOptions{Quality: 6, LGWin: 20})
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}

// Coded is the coding that the service has given a response, if it can be taken
// off.
func (p *Policy) Coded(x *exchange.Exchange) string {
	h := &x.Response
	if h.Count(exchange.ContentEncoding) != 1 || x.Status == 206 || h.Has(exchange.ContentRange) || digested(h) ||
		h.HasToken(exchange.CacheControl, "no-transform") {
		return ""
	}
	coding := h.Get(exchange.ContentEncoding)
	if exchange.EqualFold(coding, "x-gzip") {
		return names[gzipCoding]
	}
	for _, name := range names {
		if exchange.EqualFold(coding, name) {
			return name
		}
	}
	return ""
}

// Decode takes a coding off while it is read.
func (p *Policy) Decode(coding string, src exchange.Body) exchange.Body {
	return newDecoding(coding, src)
}
