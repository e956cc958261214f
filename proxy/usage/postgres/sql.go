package postgres

// schema is the version in sidegate_usage_schema.
const schema = 1

// The keys of advisory locks, of this database: "sgus" and a number.
const (
	lockSchema = 0x7367757300000001
	lockFold   = 0x7367757300000002
)

// create makes the tables. A row of sidegate_usage with open isn't in the next
// span yet. Histograms add up by standing one behind the other.
const create = `
CREATE TABLE sidegate_usage_schema (version int NOT NULL);
CREATE TABLE sidegate_usage (
  span smallint NOT NULL,    -- 0: minute, 1: hour, 2: day
  open boolean NOT NULL,     -- not in the next span yet
  start bigint NOT NULL,     -- seconds since 1970
  consumer text NOT NULL, route text NOT NULL, service text NOT NULL,
  class smallint NOT NULL,   -- of status
  requests bigint NOT NULL, bytes_in bigint NOT NULL, bytes_out bigint NOT NULL, errors bigint NOT NULL,
  limited bigint NOT NULL, hits bigint NOT NULL,
  charged bigint NOT NULL,   -- millionths of units
  latency bytea NOT NULL,    -- histograms
  PRIMARY KEY (span, open, start, consumer, route, service, class)
);
CREATE INDEX sidegate_usage_consumer ON sidegate_usage (consumer, span, start);
CREATE TABLE sidegate_usage_runs ( -- which batches are in the other table
  run text PRIMARY KEY,      -- of a gateway
  node text NOT NULL,        -- its host
  seq bigint NOT NULL,       -- of its last batch
  at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO sidegate_usage_schema VALUES (1)`

const (
	columns = `start, consumer, route, service, class, requests, bytes_in, bytes_out, errors, limited, hits, charged, latency`

	// claim notes a batch, and does nothing for one that is noted already.
	claim = `INSERT INTO sidegate_usage_runs AS r (run, node, seq) VALUES ($1, $2, $3)
ON CONFLICT (run) DO UPDATE SET seq = excluded.seq, at = now() WHERE r.seq < excluded.seq`

	// given are rows, as arrays from the fourth parameter on.
	given = `unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bytea[])`

	// insert adds rows to those of span $14. They are sorted, so that two who add
	// the same ones wait for each other, and not in a circle.
	insert = `INSERT INTO sidegate_usage AS u (span, open, ` + columns + `) SELECT $14::smallint, $15::boolean, * FROM ` + given + ` ORDER BY 3, 4, 5, 6, 7
ON CONFLICT (span, open, start, consumer, route, service, class) DO UPDATE SET requests = u.requests + excluded.requests,
bytes_in = u.bytes_in + excluded.bytes_in, bytes_out = u.bytes_out + excluded.bytes_out, errors = u.errors + excluded.errors,
limited = u.limited + excluded.limited, hits = u.hits + excluded.hits, charged = u.charged + excluded.charged, latency = u.latency || excluded.latency`

	// takeOver takes the first open rows of span $1 that start before $2.
	takeOver = `DELETE FROM sidegate_usage WHERE ctid = ANY (ARRAY (SELECT ctid FROM sidegate_usage WHERE span = $1::smallint AND open AND start < $2::bigint
ORDER BY start, consumer, route, service, class LIMIT $3::bigint FOR UPDATE)) RETURNING ` + columns

	// takeKeys takes the rows of span $6 with these keys.
	takeKeys = `DELETE FROM sidegate_usage u USING unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::smallint[]) AS k (start, consumer, route, service, class)
WHERE u.span = $6::smallint AND u.open = $7::boolean AND u.start = k.start AND u.consumer = k.consumer AND u.route = k.route AND u.service = k.service AND u.class = k.class
RETURNING u.start, u.consumer, u.route, u.service, u.class, requests, bytes_in, bytes_out, errors, limited, hits, charged, latency`

	forgetRows = `DELETE FROM sidegate_usage WHERE span = $1::smallint AND NOT open AND start < $2::bigint`
	first      = `SELECT coalesce(min(start), -1) FROM sidegate_usage WHERE span = $1::smallint AND NOT open`
	// forgetRuns has runs end long before anybody could still have a batch of them.
	forgetRuns = `DELETE FROM sidegate_usage_runs WHERE at < now() - interval '400 days'`
)
