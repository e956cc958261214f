package app

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	pagesEvery = time.Minute
	pagesWorth = 6 << 20 // bytes of the program, resident, about as many as are needed at rest
)

// pages keeps the program's own pages from staying resident that nothing needs at the
// time: those of the start first of all, later those of a surge or of what is done once
// in a while.
type pages struct{ last time.Time }

func (p *pages) look() {
	if time.Since(p.last) >= pagesEvery && filePages() >= pagesWorth {
		dropPages()
		p.last = time.Now()
	}
}

// filePages is how many bytes of files are resident in the process.
func filePages() int64 {
	b, _ := os.ReadFile("/proc/self/statm")
	words := strings.Fields(string(b))
	if len(words) < 3 {
		return 0 // nothing is dropped then
	}
	n, _ := strconv.ParseInt(words[2], 10, 64)
	return n * int64(os.Getpagesize())
}

// dropPages lets go of the pages of our own program: the kernel's cache of the file,
// no memory of ours, but counted as resident. Most were touched by the start alone, or
// came along with a neighbour, since a fault maps 16 pages. What is needed again costs
// another such fault and no reading: some hundreds in all, less than a millisecond.
//
// Only what can't be written is dropped, and nothing of a part in which a page isn't the
// file's any more: a debugger or a probe has set its marks there. Where the kernel
// doesn't let us, all stays as it is.
func dropPages() {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var start, end uint64 // of the part the lines are about; 0: not ours
	for lines := bufio.NewScanner(f); lines.Scan(); {
		field, rest, _ := strings.Cut(lines.Text(), " ")
		if from, to, ok := strings.Cut(field, "-"); ok { // FROM-TO PERMISSIONS ... FILE
			start, end = 0, 0
			if strings.HasSuffix(rest, " "+self) && (strings.HasPrefix(rest, "r-xp ") || strings.HasPrefix(rest, "r--p ")) {
				start, _ = strconv.ParseUint(from, 16, 64) // the kernel's own
				end, _ = strconv.ParseUint(to, 16, 64)
			}
			continue
		}
		if start != 0 && field == "Anonymous:" && strings.TrimSpace(rest) == "0 kB" {
			// By number: golang.org/x/sys wants a slice, and this isn't Go's memory.
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, uintptr(start), uintptr(end-start), syscall.MADV_DONTNEED)
		}
	}
}
