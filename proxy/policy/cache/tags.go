package cache

import (
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// The fields by which services tag answers, so that they can be forgotten by what
// they are about: Fastly's, whose tags are separated by spaces (Varnish's xkey
// takes commas, too), and Cloudflare's, by commas. Both are read the same here.
const (
	surrogateKey = "Surrogate-Key"
	cacheTag     = "Cache-Tag"
)

// tagFields are they as rules has names.
var tagFields = []string{"surrogate-key", "cache-tag"}

const (
	// mostTagCount and mostTagBytes bound the tags of an answer, as both CDNs do.
	mostTagCount = 1000
	mostTagBytes = 16 << 10
	tagSeparator = " "
)

func separatesTags(r rune) bool { return r == ' ' || r == '\t' || r == ',' }

// tagsOf are the tags of a response, in lower case, each once, with tagSeparator
// between them. ok is false for more than are kept, or longer than a purge can name
// them: a purge that misses an answer is worse than an answer that isn't stored.
func tagsOf(h *exchange.Head) (tags string, ok bool) {
	var list []string
	size := 0
	for i := range h.Len() {
		name, value := h.Field(i)
		if h.ID(i) != exchange.Other || h.Dropped(i) || !isTags(name) {
			continue
		}
		if size += len(value) + 1; size > mostTagBytes {
			return "", false
		}
		for tag := range strings.FieldsFuncSeq(value, separatesTags) {
			if len(tag) > longestName {
				return "", false
			}
			list = append(list, strings.ToLower(tag))
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	return strings.Join(list, tagSeparator), len(list) <= mostTagCount
}

// isTags reports whether a field says what the tags of an answer are.
func isTags(name string) bool {
	return len(name) == len(surrogateKey) && exchange.EqualFold(name, surrogateKey) ||
		len(name) == len(cacheTag) && exchange.EqualFold(name, cacheTag)
}

// hasTags reports whether a response says what its tags are.
func hasTags(h *exchange.Head) bool {
	for i := range h.Len() {
		if h.ID(i) == exchange.Other {
			if name, _ := h.Field(i); isTags(name) {
				return true
			}
		}
	}
	return false
}

// hideTags keeps back the tags of a response: they are the matter of its service and
// this cache.
func hideTags(h *exchange.Head) {
	for i := range h.Len() {
		if h.ID(i) == exchange.Other {
			if name, _ := h.Field(i); isTags(name) {
				h.Drop(i)
			}
		}
	}
}
