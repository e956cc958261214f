package condition

import (
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

// sizes says how large the variables can get, so that the cost of most
// expressions is known when they are loaded. What it doesn't know counts as
// unlimited.
type sizes struct{}

var _ cost.Estimator = sizes{}

// Bounds of what a front lets in, whatever its listener's limits are.
const (
	maxHead   = 1 << 20
	maxFields = 1000
	maxParams = 1 << 18
	maxPath   = 3 << 18 // each byte may become an escape
	maxClaims = 64 << 10
)

// EstimateCallCost leaves the functions to CEL.
func (sizes) EstimateCallCost(_, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	return nil
}

// EstimateSize returns the size of a variable or of a part of one.
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	path := n.Path()
	if len(path) == 0 {
		return nil
	}
	size := uint64(maxHead)
	isMap := n.Type().Kind() == types.MapKind
	switch path[0] {
	case "request.client_ip", "request.protocol":
		size = 64
	case "request.host", "consumer.name", "consumer.plan":
		size = 255
	case "request.headers", responseHeaders:
		if isMap {
			size = maxFields
		}
	case "request.query":
		if isMap {
			size = maxParams
		}
	case "request.path":
		size = maxPath
	case "claims": // and all that is in them
		size = maxClaims
	case "request.method":
	default:
		return nil
	}
	return &cost.SizeEstimate{Max: size}
}
