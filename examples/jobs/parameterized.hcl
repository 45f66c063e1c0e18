# Started by whoever asks, with what they bring: `moat job dispatch --meta name=ada greet -`.
job "greet" {
  type = "batch"

  parameterized {
    payload       = "optional"
    meta_required = ["name"]
    meta_optional = ["greeting"]
  }

  meta {
    greeting = "Hello"
  }

  task "greet" {
    driver = "exec"

    dispatch_payload {
      file = "input"
    }

    config {
      command = "/bin/sh"
      args    = ["-c", "echo $NOMAD_META_greeting $NOMAD_META_name; cat /local/input 2>/dev/null || true"]
    }
  }
}
