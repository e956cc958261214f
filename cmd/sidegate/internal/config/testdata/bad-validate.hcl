route "r" {
  respond { body = "ok" }
  validate {
    openapi   = "bad-validate.yaml"
    mode      = "warn"
    responses = "block"
    body      = "1GiB"
    sample    = 2
    stict     = true
  }
}
route "nothing" {
  hosts = ["a.test"]
  respond { body = "ok" }
  validate {}
}
route "nowhere" {
  hosts = ["b.test"]
  respond { body = "ok" }
  validate { openapi = "nowhere.yaml" }
}
route "document" {
  hosts = ["c.test"]
  respond { body = "ok" }
  validate { openapi = "bad-validate.yaml" }
}
route "unchecked" {
  hosts = ["d.test"]
  respond { body = "ok" }
  validate {
    openapi   = "bad-validate-xml.yaml"
    base_path = "v1"
  }
}
route "twice" {
  hosts = ["e.test"]
  respond { body = "ok" }
  validate {
    openapi   = "bad-validate-xml.yaml"
    unchecked = ["application/xml"]
  }
  validate {
    openapi   = "bad-validate-xml.yaml"
    unchecked = ["application/xml"]
  }
}
