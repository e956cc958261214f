// Package config reads the configuration: files of HCL (or its JSON form),
// the documents of the same language in Consul's KV, and the environment. It
// decodes them into the Config structs of the packages that use them, fills in
// the defaults, checks everything that can be checked without touching the
// world, and says with place and advice what is wrong.
//
// It builds nothing and starts no goroutine: what a configuration means is for
// package app to make. A new argument is a field with tags in the Config of
// the package that needs it; nothing here changes for it.
//
// # Line
//
//	files → documents (document.go) → structs (schema.go, decode.go, value.go)
//	      → checks across blocks (check*.go) → File
//
// Nothing stops at the first error. A block with an error is left out of the
// checks that it would mislead, so that one typo gives one message.
package config
