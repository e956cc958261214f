// Package route says which route takes a request: a pure function of a
// compiled table and an exchange. It is not about where the request goes then,
// and knows neither services nor policies. It starts no goroutine; a Matcher
// never changes and may be used by any number of goroutines.
//
// # Which route takes a request
//
// The most specific one:
//
//  1. By host: an exact name, then *.a.example.com, then *.example.com (the
//     longer wildcard first; it stands for any name below, not for example.com
//     itself), then routes without hosts.
//  2. Then by path: an exact path (/orders/new), then one with parameters
//     (/orders/{id}), then prefixes (/orders/*), the longer first, then routes
//     without paths. Of two paths with parameters, the one with more literal
//     segments wins, then the one that has a literal where they first differ.
//     Of two prefixes with as many segments, the same decides.
//  3. Then by conditions: the route with more of them wins. Methods are one,
//     each field of headers and query is one, when is one.
//  4. Then by name, in the order of its bytes.
//
// When the conditions of the most specific route don't hold, the next one is
// asked: first the others of the same host entry, down to its routes without
// paths, then those of the next broader host. So a route for *.example.com can
// catch what the routes for api.example.com leave over.
//
// # Paths
//
// They are compared with the canonical path, segment by segment, and case
// matters. /orders/* takes /orders/ and all below it, and /orders itself;
// /orders takes neither /orders/ nor anything below. {id} takes one segment
// that isn't empty, as it stands in the canonical path, escapes included. A
// prefix may have parameters before its /*. Only a route without paths takes
// OPTIONS *.
//
// A segment of a request may end in parameters of its own (;v=1: RFC 3986, 3.3),
// which some services leave out before they look at a path. A rule takes such a
// request only when it takes it without them, too.
//
// # Conditions
//
// GET takes HEAD, too. A value in headers and query is exact ("2"), open at
// one end or both ("*json*"; "*" is any value), or "~" and an RE2 expression
// that is found anywhere in it. Where a field or parameter comes more than
// once, one value that matches is enough. Query parameters are compared after
// decoding (%2C, +).
package route
