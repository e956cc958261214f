route "r" {
  respond { body = "ok" }
  waf {
    mode     = "warn"
    paranoia = 5
    body     = "64MiB"
    beyond   = "drop"
    rules    = []
  }
}
route "s" {
  hosts = ["s.test"]
  respond { body = "ok" }
  waf {
    uninspected = ["image/*", "*/*", "png"]
    exclude { rules = [] }
  }
}
route "t" {
  hosts = ["t.test"]
  respond { body = "ok" }
  waf {
    exclude {
      rules   = ["942100", "9-1", "attack-sqli", "a b", "+5"]
      targets = ["ARGS:q", "args:q", "REQUEST_URI:x", "NOTHING", "ARGS:a|b"]
    }
  }
}
route "x" {
  hosts = ["x.test"]
  respond { body = "ok" }
  waf {
    exclude { targets = ["ARGS"] }
  }
}
route "u" {
  hosts = ["u.test"]
  respond { body = "ok" }
  waf { rules_file = "bad-waf.conf" }
}
route "v" {
  hosts = ["v.test"]
  respond { body = "ok" }
  waf { rules_file = "none.conf" }
}
route "w" {
  hosts = ["w.test"]
  respond { body = "ok" }
  waf { rules_file = "bad-waf-rule.conf" }
}
