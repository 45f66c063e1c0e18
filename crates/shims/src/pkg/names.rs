//! What FreeBSD's packages are called elsewhere, and which programs they bring.

use super::tool::Manager;

/// A package that is not called the same everywhere: FreeBSD's name, then those for apt, apk, dnf, pacman and zypper. Several
/// are separated by spaces.
type Row = (&'static str, [&'static str; 5]);

const ROWS: [Row; 24] = [
    // Both fetch over HTTPS, and FreeBSD's base brings the authorities.
    ("git", ["git ca-certificates", "git ca-certificates", "git-core", "git", "git-core"]),
    ("go", ["golang ca-certificates", "go ca-certificates", "golang", "go", "go"]),
    ("ca_root_nss", ["ca-certificates", "ca-certificates", "ca-certificates", "ca-certificates", "ca-certificates"]),
    ("node", ["nodejs", "nodejs", "nodejs", "nodejs", "nodejs"]),
    ("npm", ["npm", "npm", "nodejs-npm", "npm", "npm"]),
    ("python", ["python3", "python3", "python3", "python", "python3"]),
    ("python3", ["python3", "python3", "python3", "python", "python3"]),
    ("apache24", ["apache2", "apache2", "httpd", "apache", "apache2"]),
    ("bind9", ["bind9", "bind", "bind", "bind", "bind"]),
    ("dns/bind", ["bind9", "bind", "bind", "bind", "bind"]),
    ("gmake", ["make", "make", "make", "make", "make"]),
    ("gsed", ["sed", "sed", "sed", "sed", "sed"]),
    ("gtar", ["tar", "tar", "tar", "tar", "tar"]),
    ("gnupg", ["gnupg", "gnupg", "gnupg2", "gnupg", "gpg2"]),
    ("openjdk17", ["openjdk-17-jdk", "openjdk17", "java-17-openjdk-devel", "jdk17-openjdk", "java-17-openjdk-devel"]),
    ("openjdk21", ["openjdk-21-jdk", "openjdk21", "java-21-openjdk-devel", "jdk21-openjdk", "java-21-openjdk-devel"]),
    ("pkgconf", ["pkg-config", "pkgconf", "pkgconf-pkg-config", "pkgconf", "pkg-config"]),
    ("redis", ["redis-server", "redis", "redis", "redis", "redis"]),
    ("rust", ["rustc cargo", "rust cargo", "rust cargo", "rust", "rust cargo"]),
    ("ssmtp", ["msmtp", "ssmtp", "msmtp", "msmtp", "msmtp"]),
    ("sqlite3", ["sqlite3", "sqlite", "sqlite", "sqlite", "sqlite3"]),
    ("vim-tiny", ["vim-tiny", "vim", "vim-minimal", "vim", "vim-small"]),
    ("bind-tools", ["dnsutils", "bind-tools", "bind-utils", "bind", "bind-utils"]),
    ("drill", ["ldnsutils", "drill", "ldns-utils", "ldns", "ldns"]),
];

/// What a package is called for a manager.
pub fn packages(name: &str, manager: Manager) -> Vec<String> {
    let at = match manager {
        Manager::Apt => 0,
        Manager::Apk => 1,
        Manager::Dnf | Manager::Microdnf | Manager::Yum => 2,
        Manager::Pacman => 3,
        Manager::Zypper => 4,
    };
    let short = short(name);
    let row = ROWS.iter().find(|(known, _)| *known == name || *known == short);
    let found = row.and_then(|(_, names)| names.get(at)).copied().unwrap_or(&short);
    found.split(' ').map(str::to_owned).collect()
}

/// An origin (`lang/go`) and a flavour (`py39-x@default`) without what Linux does not say. A path of a file stays.
fn short(name: &str) -> String {
    if name.starts_with(['/', '.']) {
        return name.to_owned();
    }
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.split('@').next().unwrap_or(name);
    // FreeBSD numbers its Python and Go packages: python311, py311-yaml, go122.
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((number, rest)) = name.strip_prefix("py").and_then(|rest| rest.split_once('-'))
        && digits(number)
    {
        return format!("python3-{rest}");
    }
    for base in ["python", "go", "node"] {
        if name.strip_prefix(base).is_some_and(digits) {
            return base.to_owned();
        }
    }
    name.to_owned()
}

/// The programs that scripts expect in `/usr/local/bin` after the package was installed.
pub fn programs(name: &str) -> Vec<String> {
    let short = short(name);
    let list: &[&str] = match short.as_str() {
        "go" => &["go", "gofmt"],
        "python" | "python3" => &["python3"],
        "gmake" => &["make"],
        "rust" => &["rustc", "cargo"],
        "node" => &["node"],
        "redis" => &["redis-server", "redis-cli"],
        // Most are called like their package.
        _ => return vec![short],
    };
    list.iter().map(|program| (*program).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_others() {
        assert_eq!(packages("go", Manager::Apt), ["golang", "ca-certificates"]);
        assert_eq!(packages("lang/go", Manager::Apk), ["go", "ca-certificates"]);
        assert_eq!(packages("go122", Manager::Dnf), ["golang"]);
        assert_eq!(packages("python311", Manager::Pacman), ["python"]);
        assert_eq!(packages("py311-yaml", Manager::Apt), ["python3-yaml"]);
        assert_eq!(packages("nginx", Manager::Zypper), ["nginx"]);
        assert_eq!(packages("./local.deb", Manager::Apt), ["./local.deb"]);
        assert_eq!(programs("lang/go"), ["go", "gofmt"]);
        assert_eq!(programs("bash"), ["bash"]);
    }
}
