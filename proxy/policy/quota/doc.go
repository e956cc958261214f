// Package quota is the policy that bounds how much a client may use in an hour, a
// day or a month of the calendar (UTC). It counts exactly, and over restarts and
// crashes; how often a client may ask at a time isn't its matter.
//
//	period.go  the calendar
//	store.go   what each client has used, in memory
//	writer.go  how that gets to the disk, before it is used
//	file.go    what is on the disk
//	yield.go   two processes, while one hands over to the other
//	quota.go   the policy
//	client.go  what clients are called
//	shared.go  what all nodes count together
//	set.go     the operator's word
//
// What a client uses has been set aside on the disk before, a share of its quota
// at a time: a record says how much it may have used at most. After a crash that
// is what counts, so that a crash may cost a client what was set aside and not
// used, one part in a hundred of its quota and 10,000 units at most, and never
// gives it anything. A stop that isn't a crash writes down what was used.
//
// Requests of many clients share one write (fsync); who has something set aside
// waits for none, and more is set aside before that ends. While the disk can't be
// written, counting goes on in memory: then a crash loses what was used meanwhile.
//
// A client's period only goes on: when the wall clock is set back, what was used
// in the period before counts there, and further back the latest period goes on.
// No step backwards refills a quota.
//
// Store.Run is the one goroutine; the application owns it.
package quota
