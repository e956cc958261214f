package h3

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"

	"github.com/quic-go/quic-go"
)

// A connection id that we choose is idLen bytes: a random nonce, and then the
// generation of the process under a mask that follows from the nonce and a key
// of the Secrets. Who has the key finds the process of a packet; to all others
// the ids of a connection look random, and don't tell that they belong together
// (RFC 9000, 9.5). This is what processes of different versions have to agree
// on: a packet with a short header doesn't say how long its id is.
//
// A client's first packets carry an id of its own choice. One of idLen bytes is
// taken for one of a generation before in 1 of 2^32 cases.
const (
	nonceLen = 6
	idLen    = nonceLen + 4
)

// ids makes connection ids, and tells of whom they are.
type ids struct {
	mask       cipher.Block
	generation uint32
}

func newIDs(s *Secrets) *ids {
	b, err := aes.NewCipher(s.ids[:])
	if err != nil {
		panic(err) // the key is as long as it has to be
	}
	return &ids{b, s.generation}
}

// ConnectionIDLen is for quic-go.
func (i *ids) ConnectionIDLen() int { return idLen }

// GenerateConnectionID makes an id of this process; quic-go calls it from any
// goroutine.
func (i *ids) GenerateConnectionID() (quic.ConnectionID, error) {
	var id [idLen]byte
	var block [aes.BlockSize]byte
	rand.Read(id[:nonceLen]) // never fails
	binary.BigEndian.PutUint32(id[nonceLen:], i.generation)
	i.apply(id[:], &block)
	return quic.ConnectionIDFromBytes(id[:]), nil
}

// apply masks the generation of an id, or shows it again.
func (i *ids) apply(id []byte, block *[aes.BlockSize]byte) {
	*block = [aes.BlockSize]byte{}
	copy(block[:], id[:nonceLen])
	i.mask.Encrypt(block[:], block[:])
	for n := range idLen - nonceLen {
		id[nonceLen+n] ^= block[n]
	}
}

// reader shows the generations of packets, without an allocation for each.
type reader struct {
	*ids
	id    [idLen]byte
	block [aes.BlockSize]byte
}

// of is the generation that a packet's connection id is of, if it is one of ours
// at all.
func (r *reader) of(id []byte) (generation uint32, ok bool) {
	if len(id) != idLen {
		return 0, false
	}
	copy(r.id[:], id)
	r.apply(r.id[:], &r.block)
	return binary.BigEndian.Uint32(r.id[nonceLen:]), true
}

// destination is a packet's connection id, as all versions of QUIC write it (RFC
// 8999, 5), and whether its header is a long one: those of the packets that
// begin a connection are. nil: it is no packet of QUIC.
func destination(packet []byte) (id []byte, long bool) {
	if len(packet) == 0 {
		return nil, false
	}
	if packet[0]&0x80 == 0 {
		if len(packet) < 1+idLen {
			return nil, false
		}
		return packet[1 : 1+idLen], false
	}
	const at = 6 // after the type, the version and the id's length
	if len(packet) < at || len(packet) < at+int(packet[at-1]) {
		return nil, true
	}
	return packet[at : at+int(packet[at-1])], true
}
