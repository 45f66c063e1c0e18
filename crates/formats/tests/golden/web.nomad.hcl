variable "image_tag" {
  type    = string
  default = "v1"
}

variable "ports" {
  type    = map(number)
  default = { http = 8080, admin = 0 }
}

variable "datacenters" {
  type    = list(string)
  default = ["dc1", "dc2"]
}

locals {
  name = "web-${var.image_tag}"
  tags = [for dc in var.datacenters : upper(dc) if dc != "dc9"]
}

job "web" {
  datacenters = var.datacenters
  type        = "service"
  priority    = 60

  constraint {
    attribute = "${attr.kernel.name}"
    value     = "linux"
  }

  spread {
    attribute = "${node.datacenter}"
    target "dc1" { percent = 70 }
    target "dc2" { percent = 30 }
  }

  update {
    max_parallel = 2
    canary       = 1
  }

  meta = { release = local.name }

  group "front" {
    count = length(var.datacenters) * 2

    update {
      auto_promote     = true
      min_healthy_time = "5s"
    }

    network {
      dynamic "port" {
        for_each = var.ports
        labels   = [port.key]
        content {
          to = port.value > 0 ? port.value : -1
        }
      }
    }

    volume "certs" {
      type   = "host"
      source = "certificates"
    }

    service {
      name = "web"
      port = "http"
      tags = concat(local.tags, ["${NOMAD_ALLOC_ID}"])

      check {
        type     = "http"
        path     = "/health"
        interval = "10s"
        timeout  = "2s"
        check_restart {
          limit = 3
          grace = "30s"
        }
      }
    }

    restart {
      attempts = 5
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    task "init" {
      lifecycle {
        hook = "prestart"
      }
      driver = "exec"
      config {
        command = "/bin/sh"
        args    = ["-c", "echo $${HOSTNAME} ${NOMAD_TASK_NAME}"]
      }
      resources {
        memory = 32
      }
    }

    task "app" {
      driver = "exec"
      user   = "www-data"
      leader = true

      config {
        command = "local/app"
        args = [
          "--port", "${NOMAD_PORT_http}",
          "--name", local.name,
        ]
        cap_add = ["CAP_NET_RAW"]
      }

      artifact {
        source = "https://example.com/app-${var.image_tag}.tar.gz"
        options {
          checksum = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
        }
      }

      template {
        destination   = "local/app.conf"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        perms         = "600"
        data          = <<-EOT
          name = {{ env "NOMAD_JOB_NAME" }}
            %{ for dc in var.datacenters ~}
          dc = ${dc}
            %{ endfor ~}
          home = ${env["HOME"]}
        EOT
      }

      volume_mount {
        volume      = "certs"
        destination = "/etc/certs"
      }

      env {
        RELEASE = local.name
        WORKERS = 4
        DEBUG   = false
      }

      resources {
        cpu        = 500
        memory     = 256
        memory_max = 512
      }

      kill_timeout = "20s"
      logs {
        max_files     = 3
        max_file_size = 5
      }
    }
  }
}
