# Started by the clock, in a time zone, and not while the last one still runs. `moat job periodic force nightly` starts it now.
job "nightly" {
  type = "batch"

  periodic {
    cron             = "30 2 * * *"
    time_zone        = "Europe/Berlin"
    prohibit_overlap = true
  }

  task "clean" {
    driver = "exec"

    config {
      command = "/bin/sh"
      args    = ["-c", "echo cleaned at $(date)"]
    }
  }
}
