package exchange

// Priority says who goes first when not everybody can be served.
type Priority uint8

// The priorities.
const (
	Unranked Priority = iota // nothing is said
	LowPriority
	NormalPriority
	HighPriority
)

// ParsePriority is the priority of that name in the configuration, Unranked for
// anything else.
func ParsePriority(text string) Priority {
	for p := LowPriority; p <= HighPriority; p++ {
		if p.String() == text {
			return p
		}
	}
	return Unranked
}

func (p Priority) String() string {
	switch p {
	case LowPriority:
		return "low"
	case NormalPriority:
		return "normal"
	case HighPriority:
		return "high"
	default:
		return ""
	}
}

// Rank is the priority that holds for x: the consumer's (or that of its plan),
// else the route's, else normal. A copy's is low.
func (x *Exchange) Rank() Priority {
	switch {
	case x.Copy:
		return LowPriority
	case x.Consumer != nil && x.Consumer.Priority != Unranked:
		return x.Consumer.Priority
	case x.Priority != Unranked:
		return x.Priority
	default:
		return NormalPriority
	}
}
