route "r" {
  when = "consumer.plan != 'free'"
  respond { body = "ok" }
}
