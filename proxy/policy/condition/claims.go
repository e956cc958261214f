package condition

import (
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// claimMap is a CEL map over the claims of a token. Like textMap it looks keys
// up where they are.
type claimMap struct {
	values map[string]any
	made   traits.Mapper
}

var _ traits.Mapper = (*claimMap)(nil)

func (m *claimMap) full() traits.Mapper {
	if m.made == nil {
		m.made = types.NewStringInterfaceMap(types.DefaultTypeAdapter, m.values)
	}
	return m.made
}

// Find looks a claim up.
func (m *claimMap) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	v, ok := m.values[string(name)]
	if !ok {
		return nil, false
	}
	return types.DefaultTypeAdapter.NativeToValue(v), true
}

// Contains reports whether there is a claim.
func (m *claimMap) Contains(key ref.Val) ref.Val {
	_, ok := m.Find(key)
	return types.Bool(ok)
}

// Get looks a claim up that must be there.
func (m *claimMap) Get(key ref.Val) ref.Val {
	if v, ok := m.Find(key); ok {
		return v
	}
	return types.NewErr("no such key: %v", key)
}

// ConvertToNative, and what follows, is the real map's.
func (m *claimMap) ConvertToNative(t reflect.Type) (any, error) { return m.full().ConvertToNative(t) }

// ConvertToType converts to another CEL type.
func (m *claimMap) ConvertToType(t ref.Type) ref.Val { return m.full().ConvertToType(t) }

// Equal compares with another map.
func (m *claimMap) Equal(other ref.Val) ref.Val { return m.full().Equal(other) }

// Type is the type of maps.
func (m *claimMap) Type() ref.Type { return types.MapType }

// Value is a Go map.
func (m *claimMap) Value() any { return m.full().Value() }

// Iterator goes over the names.
func (m *claimMap) Iterator() traits.Iterator { return m.full().Iterator() }

// Size is the number of claims.
func (m *claimMap) Size() ref.Val { return m.full().Size() }
