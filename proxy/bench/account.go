package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cpuTime is the nanoseconds that a process's threads have run, and those of its
// children, of which varnishd has one that does the work.
func cpuTime(pid int) (int64, error) {
	sum, err := ownTime(pid)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid)) // none, on a kernel that doesn't list them
	for _, word := range strings.Fields(string(children)) {
		child, _ := strconv.Atoi(word)
		more, err := ownTime(child)
		if err != nil {
			return 0, err
		}
		sum += more
	}
	return sum, err
}

func ownTime(pid int) (int64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	var sum int64
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that ended
		}
		n, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// residentMemory is the bytes of a process that are in memory.
func residentMemory(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// ratio is the median of same-round ratios and its 95 % bootstrap interval.
type ratio struct{ median, low, high float64 }

func ratioOf(a, b []float64) ratio {
	pairs := make([]float64, len(a))
	for i := range a {
		pairs[i] = a[i] / b[i]
	}
	const draws = 2000
	medians := make([]float64, draws)
	again := make([]float64, len(pairs))
	r := rand.New(rand.NewPCG(1, 2)) // the same interval for the same figures
	for i := range medians {
		for j := range again {
			again[j] = pairs[r.IntN(len(pairs))]
		}
		medians[i] = median(again)
	}
	slices.Sort(medians)
	return ratio{median(pairs), medians[draws*25/1000], medians[draws*975/1000]}
}

func (r ratio) String() string { return fmt.Sprintf("%.2f [%.2f-%.2f]", r.median, r.low, r.high) }

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}
