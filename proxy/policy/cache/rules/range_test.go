package rules

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func TestRange(t *testing.T) {
	many := func(n int, spec string) string {
		return "bytes=" + strings.TrimSuffix(strings.Repeat(spec+",", n), ",")
	}
	for _, tt := range []struct {
		in   string
		size int64
		want string
	}{
		{"bytes=0-0", 1000, "0-1"}, {"bytes=0-999", 1000, "0-1000"}, {"bytes=0-", 1000, "0-1000"}, {"bytes=999-", 1000, "999-1000"}, {"bytes=1000-", 1000, "416"}, {"bytes=-1", 1000, "999-1000"},
		{"bytes=-0", 1000, "416"}, {"bytes=-2000", 1000, "0-1000"}, {"bytes=0-99999999999999999999", 1000, "0-1000"}, {"bytes=99999999999999999999-", 1000, "416"}, {"bytes=-99999999999999999999", 1000, "0-1000"},
		{"BYTES=0-1", 1000, "0-2"}, {"bytes=0-1, 500-501", 1000, "0-2 500-502"}, {"bytes=500-501,0-1", 1000, "500-502 0-2"}, {"bytes=0-1,,500-501 ,", 1000, "0-2 500-502"}, {"bytes=0-9,5-20", 1000, "0-21"},
		{"bytes=0-9,89-100", 1000, "0-101"}, {"bytes=0-9,91-100", 1000, "0-10 91-101"}, {"bytes=0-9,900-,400-500,5-450", 1000, "0-501 900-1000"}, {"bytes=900-,0-9,400-500,5-450", 1000, "900-1000 0-501"},
		{"bytes=5000-,0-0", 1000, "0-1"}, {"bytes=5000-,6000-", 1000, "416"}, {"bytes=0-1,x", 1000, "whole"}, {"bytes=2-1", 1000, "whole"}, {"bytes=0-1,2-1", 1000, "whole"}, {"bytes=", 1000, "whole"},
		{"bytes=,", 1000, "whole"}, {"bytes", 1000, "whole"}, {"bytes 0-1", 1000, "whole"}, {"bytes=-", 1000, "whole"}, {"bytes=--1", 1000, "whole"}, {"bytes=+1-2", 1000, "whole"}, {"bytes= 0-1", 1000, "0-2"},
		{"bytes=0 -1", 1000, "whole"}, {"items=0-1", 1000, "whole"}, {"bytes=0-1", 0, "whole"}, {"bytes=-1", 0, "whole"}, {many(16, "0-1"), 1000, "0-2"}, {many(17, "0-1"), 1000, "whole"},
		{fmt.Sprintf("bytes=0-%d", int64(math.MaxInt64)), 1000, "0-1000"},
	} {
		verdict, list := Range(head("Range: "+tt.in), Validators{}, tt.size, nil)
		got := map[RangeVerdict]string{Whole: "whole", Unsatisfiable: "416"}[verdict]
		if verdict == Part {
			var words []string
			for _, s := range list {
				words = append(words, fmt.Sprintf("%d-%d", s.From, s.To))
			}
			got = strings.Join(words, " ")
		}
		if got != tt.want {
			t.Errorf("%s of %d bytes: %s, want %s", tt.in, tt.size, got, tt.want)
		}
	}
	if verdict, _ := Range(head("Range: bytes=0-1", "Range: bytes=2-3"), Validators{}, 1000, nil); verdict != Whole {
		t.Errorf("two fields: %d", verdict)
	}
	if verdict, _ := Range(head("Range: bytes=0-1", `If-Range: "a"`, `If-Range: "a"`), Validators{ETag: `"a"`}, 1000, nil); verdict != Whole {
		t.Errorf("two If-Range: %d", verdict)
	}
}

func TestNear(t *testing.T) {
	for in, want := range map[string]bool{
		"bytes=0-1": true, "bytes=99-": true, "Bytes=0-1, 50-60": true, "bytes=100-": false, "bytes=0-1,100-200": false, "bytes=-1": false, "bytes=0-1,-1": false, "items=0-1": false, "bytes=": false, "": false, "bytes=99999999999999999999-": false,
	} {
		if got := Near(head("Range: "+in), 100); got != want {
			t.Errorf("%s: %v", in, got)
		}
	}
}

// FuzzRange: what we give is what net/http gives of the same content, but that we
// give the whole of it where it says 416 to what isn't valid, or 200 to what asks for
// more than all; and what it gives in overlapping parts, we give once.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-5,0-3", "bytes=900-,0-9,400-500,5-450", "bytes=1000-", "bytes=0-0,2-2, 4-4", "bytes=5-2", "bytes=,,1-", "items=1-2", "bytes=99999999999999999999-"} {
		f.Add(s, uint16(1000))
	}
	content := make([]byte, 1<<16)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	f.Fuzz(func(t *testing.T, s string, size uint16) {
		if !exchange.ValidValue(s) || s != strings.Trim(s, " \t") {
			return
		}
		all := content[:size]
		verdict, list := Range(head("Range: "+s), Validators{}, int64(size), nil)
		if len(list) > MostRanges || verdict == Part && len(list) == 0 {
			t.Fatalf("%q: %d parts", s, len(list))
		}
		covered := make([]bool, size)
		for _, p := range list {
			if p.From < 0 || p.To > int64(size) || p.Len() <= 0 {
				t.Fatalf("%q of %d bytes: %d to %d", s, size, p.From, p.To)
			}
			for i := p.From; i < p.To; i++ {
				if covered[i] {
					t.Fatalf("%q: byte %d comes twice", s, i)
				}
				covered[i] = true
			}
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", s)
		w := httptest.NewRecorder()
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(all))
		switch {
		case w.Code == 416 && verdict != Unsatisfiable && verdict != Whole:
			// net/http takes no unit in capitals, and nothing beyond 64 bits.
			if _, set, _ := strings.Cut(s, "="); strings.HasPrefix(s, "bytes=") && !digits19(set) {
				t.Errorf("%q of %d bytes: %v, net/http says 416", s, size, list)
			}
		case w.Code == 206 && verdict == Unsatisfiable: // net/http gives no byte for bytes=-0, which 14.1.2 has not satisfiable
			if slices.Contains(theirs(t, w, size), true) {
				t.Errorf("%q of %d bytes: 416, net/http gives a part", s, size)
			}
		case w.Code == 206 && verdict == Part:
			for i, want := range theirs(t, w, size) {
				if want && !covered[i] {
					t.Fatalf("%q of %d bytes: byte %d is missing", s, size, i)
				}
			}
		}
	})
}

func digits19(s string) bool {
	n := 0
	for _, c := range []byte(s) {
		if n++; c < '0' || c > '9' {
			n = 0
		}
		if n > 18 {
			return true
		}
	}
	return false
}

// theirs are the bytes of the content that an answer of net/http has.
func theirs(t *testing.T, w *httptest.ResponseRecorder, size uint16) []bool {
	has := make([]bool, size)
	mark := func(field string) {
		var from, to, of int
		if _, err := fmt.Sscanf(field, "bytes %d-%d/%d", &from, &to, &of); err != nil {
			t.Fatal(field, err)
		}
		for i := from; i <= to; i++ {
			has[i] = true
		}
	}
	kind, params, _ := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if kind != "multipart/byteranges" {
		mark(w.Header().Get("Content-Range"))
		return has
	}
	m := multipart.NewReader(w.Body, params["boundary"])
	for {
		p, err := m.NextPart()
		if err == io.EOF {
			return has
		}
		if err != nil {
			t.Fatal(err)
		}
		mark(p.Header.Get("Content-Range"))
	}
}

// FuzzVary: each name that a plain reading finds is there, once, sorted, and what
// isn't a name can't be matched.
func FuzzVary(f *testing.F) {
	for _, s := range []string{"a, B", "*", "a,,b,", "a b", "Accept-Encoding, accept-encoding"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, any := Vary(head("Vary: " + s))
		for i, n := range names {
			if n != strings.ToLower(n) || i > 0 && names[i-1] >= n || !exchange.IsToken(n) {
				t.Errorf("%q: %q", s, names)
			}
		}
		for word := range strings.SplitSeq(s, ",") {
			word = strings.ToLower(strings.Trim(word, " \t"))
			found := any || word == ""
			for _, n := range names {
				found = found || n == word
			}
			if !found || (word == "*" || word != "" && !exchange.IsToken(word)) && !any {
				t.Errorf("%q: %q is lost in %q, any %v", s, word, names, any)
			}
		}
	})
}

// FuzzDate: what net/http reads as a date we read so, too, and nothing else, but
// that we take only GMT, and no more white space than the forms have.
func FuzzDate(f *testing.F) {
	for _, s := range []string{"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "0", "Sun, 06 Nov 1994 08:49:37.5 GMT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := ParseDate(s)
		want, err := http.ParseTime(s)
		if ok && (err != nil || !got.Equal(want)) {
			t.Errorf("%q: %v, net/http says %v, %v", s, got, want, err)
		}
		if s == want.UTC().Format(http.TimeFormat) && err == nil && !ok {
			t.Errorf("%q isn't taken for a date", s)
		}
	})
}

// FuzzTags: a list of entity tags has those of a plain reading, where no comma stands in one, and
// a condition holds if it names the stored one.
func FuzzTags(f *testing.F) {
	for _, s := range []string{`"a", W/"b"`, `*`, `"a,b"`, `"a`, `W/`, `a, "c"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		EachTag(s, func(tag string) bool {
			if n++; tag == "" || n > len(s) {
				t.Fatalf("%q: %q", s, tag)
			}
			return true
		})
		for _, tag := range []string{`"a"`, `W/"a"`} {
			h := head("If-None-Match: "+s, "If-None-Match: "+tag)
			if !NotModified(h, Validators{ETag: `"a"`}) {
				t.Errorf("%q and %s don't match", s, tag)
			}
		}
		if strings.IndexByte(s, '"') < 0 && !strings.Contains(s, "*") && NotModified(head("If-None-Match: "+s), Validators{ETag: `"a"`}) {
			t.Errorf("%q matches", s)
		}
	})
}
