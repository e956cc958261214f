package answer

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// Used knows what consumers have used.
type Used interface {
	// Own is what a consumer has used, as JSON. ErrBusy and what is wrong with the
	// question (Findings) are told to the client; other errors aren't.
	Own(ctx context.Context, c *exchange.Consumer, question url.Values) ([]byte, error)
}

// ErrBusy is somebody who can't be asked now.
var ErrBusy = errors.New("too many ask what they have used")

// Findings are what is wrong with a question.
type Findings []exchange.Finding

func (f Findings) Error() string { return "the question isn't right" }

// ownTime is how long an answer may take to be put together.
const ownTime = 10 * time.Second

// own answers a consumer with what it has used itself.
type own struct{ used Used }

// Usage makes the answer of a usage block. used may be nil to check one.
func Usage(used Used) policy.Requester { return &own{used} }

// Request answers. Whose usage it is, is only what auth has found out.
func (o *own) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if x.Method != "GET" && x.Method != "HEAD" {
		x.ResponseEdits.Set("Allow", "GET, HEAD")
		return policy.Done, exchange.NewFault(exchange.FromClient, exchange.MethodNotAllowed, "what was used can only be read")
	}
	if x.Consumer == nil {
		return policy.Done, exchange.NewFault(exchange.FromPolicy, exchange.Forbidden, "the caller isn't a consumer, whose usage could be told")
	}
	question, err := url.ParseQuery(x.Target.Query)
	if err != nil {
		return policy.Done, &exchange.Fault{Source: exchange.FromClient, Kind: exchange.Invalid, Err: err}
	}
	ctx, cancel := context.WithTimeout(context.Background(), ownTime)
	defer cancel()
	body, err := o.used.Own(ctx, x.Consumer, question)
	var findings Findings
	switch {
	case errors.As(err, &findings):
		return policy.Done, &exchange.Fault{Source: exchange.FromClient, Kind: exchange.Invalid, Err: err, Findings: findings}
	case errors.Is(err, ErrBusy) || errors.Is(err, context.DeadlineExceeded):
		return policy.Done, &exchange.Fault{Source: exchange.FromInternal, Kind: exchange.GatewayOverloaded, Err: err}
	case err != nil:
		return policy.Done, &exchange.Fault{Source: exchange.FromInternal, Kind: exchange.Internal, Err: err}
	}
	x.Reply(200, "application/json", body)
	x.Response.Append("Cache-Control", "no-store")
	return policy.Done, nil
}

// Explain says what it answers.
func (o *own) Explain() string { return "answers a consumer with what it has used" }
