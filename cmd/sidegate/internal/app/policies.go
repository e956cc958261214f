package app

import (
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/request"
	"github.com/sidegate-proxy/sidegate/proxy/policy/response"
)

// kinds are the policies that there are, in the order in which they run on a
// request; on a response they run in the reverse order. A new policy is a
// folder below proxy/policy and a line here.
func kinds() []policy.Kind {
	return []policy.Kind{
		request.Kind(),
		response.Kind(),
	}
}
