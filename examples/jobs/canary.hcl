# A new version is tried beside the old one first. `moat job promote api` lets it take over; an unhealthy one goes by itself.
variable "version" {
  default = "1.0.0"
}

job "api" {
  meta {
    version = var.version
  }

  group "api" {
    count = 3

    update {
      canary           = 1
      max_parallel     = 1
      min_healthy_time = "10s"
      healthy_deadline = "2m"
      auto_revert      = true
    }

    # On different nodes, where there are as many.
    spread {
      attribute = "${node.unique.id}"
    }

    task "api" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo version ${NOMAD_META_version}; exec sleep infinity"]
      }

      kill_timeout = "10s"
    }
  }
}
