// Package schema checks JSON values against schemas: JSON Schema of draft
// 2020-12, as OpenAPI 3.1 has it, and what OpenAPI 3.0 makes of an older draft.
//
// It is made for values that come from anybody. Reading one takes time and
// memory in proportion to its length; checking one takes a bounded number of
// steps in proportion to its size, whatever the schema's branches make of it;
// numbers are compared digit by digit, never as floats; what is wrong with a
// value is said without the value. A schema that it can't check in full is
// refused when it is compiled: unknown keywords, dynamic references,
// expressions that RE2 hasn't.
//
// It knows nothing of requests, and starts no goroutine.
//
//	value.go    JSON values, as a flat list of nodes
//	parse.go    reading them (RFC 8259)
//	number.go   exact decimal numbers
//	equal.go    comparing values
//	compile.go  schemas from a document's nodes
//	keyword.go  their keywords, one by one
//	parts.go    those for arrays and objects
//	check.go    a value against a schema
//	object.go   the parts for objects and lists
//	format.go   formats
//	pattern.go  expressions of ECMA-262 in RE2
package schema
