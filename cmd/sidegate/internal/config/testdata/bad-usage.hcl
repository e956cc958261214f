usage {
  flush    = "5m"
  retain   = "12h"
  series   = 5
  keep     = "1d"
}
route "r" {
  respond {}
}
