//! Users.

use super::ask::Ask;
use super::names::{check_field, check_name, check_path};
use super::password::{self, Password};
use super::{DATA, Files, NO_USER, UNAVAILABLE, USAGE, field, group, home, members, put};
use crate::{Failure, Outcome};

/// The shell of those nothing was said about.
const SHELL: &str = "/bin/sh";

fn no_user(subject: &str) -> Failure {
    Failure::new(NO_USER, format!("no such user `{subject}'"))
}

/// The name of the user that is meant: by name, or by number with `-u` or alone.
fn meant(ask: &Ask, files: &Files) -> Result<String, Failure> {
    let subject = ask.subject().or_else(|| ask.value('u'));
    let subject = subject.ok_or_else(|| Failure::new(USAGE, "username or id required"))?;
    let number = || files.passwd.find(2, subject).filter(|_| subject.parse::<u32>().is_ok());
    let entry = files.passwd.find(0, subject).or_else(number);
    entry.map(|entry| field(entry, 0).to_owned()).ok_or_else(|| no_user(subject))
}

fn free_number(files: &Files) -> Result<u32, Failure> {
    let used = files.passwd.numbers(2);
    let next = used.iter().filter(|id| group::IDS.contains(id)).max().map_or(*group::IDS.start(), |id| id + 1);
    let found = Some(next).filter(|id| group::IDS.contains(id));
    let found = found.or_else(|| group::IDS.clone().find(|id| !used.contains(id)));
    found.ok_or_else(|| Failure::new(UNAVAILABLE, "no user id is free"))
}

/// Name, comment, home and shell as given, checked.
fn check(ask: &Ask) -> Result<(), Failure> {
    ask.value('c').map_or(Ok(()), |text| check_field("comment", text))?;
    ask.value('d').map_or(Ok(()), |path| check_path("home directory", path))?;
    ask.value('b').map_or(Ok(()), |path| check_path("base directory", path))?;
    match ask.value('s') {
        // FreeBSD takes a bare name for a shell in the usual places.
        Some(shell) if !shell.is_empty() && !shell.contains('/') => check_field("shell", shell),
        Some(shell) if !shell.is_empty() => check_path("shell", shell),
        _ => Ok(()),
    }
}

fn shell(ask: &Ask) -> Result<Option<String>, Failure> {
    let Some(shell) = ask.value('s') else { return Ok(None) };
    if shell.is_empty() || shell.starts_with('/') {
        return Ok(Some(shell.to_owned()));
    }
    let dirs = ["/bin", "/usr/bin", "/usr/sbin", "/sbin", "/usr/local/bin"];
    let found = dirs.iter().map(|dir| format!("{dir}/{shell}")).find(|path| ask.place(path).exists());
    found
        .map(Some)
        .ok_or_else(|| Failure::new(super::UNAVAILABLE, format!("can't find shell `{shell}' in shell paths")))
}

/// The groups given with `-G`, by name.
fn extra_groups(ask: &Ask, files: &Files) -> Result<Option<Vec<String>>, Failure> {
    let Some(list) = ask.list('G') else { return Ok(None) };
    let name = |text: &&str| {
        group::find(files, text).ok_or_else(|| Failure::new(NO_USER, format!("group `{text}' does not exist")))
    };
    list.iter().map(name).collect::<Result<Vec<_>, _>>().map(Some)
}

/// Makes a user a member of exactly these groups.
fn join(files: &mut Files, user: &str, groups: &[String]) {
    let all: Vec<(String, Vec<String>)> =
        files.group.entries().map(|entry| (field(entry, 0).to_owned(), members(entry))).collect();
    for (name, mut list) in all {
        let (is, wanted) = (list.iter().any(|member| member == user), groups.contains(&name));
        if is != wanted {
            list.retain(|member| member != user);
            list.extend(wanted.then(|| user.to_owned()));
            group::set_members(files, &name, &list);
        }
    }
}

/// `pw useradd`
pub fn add(ask: &Ask) -> Outcome {
    let name = ask.subject().ok_or_else(|| Failure::new(USAGE, "login name required"))?;
    check_name("login", name)?;
    check(ask)?;
    let mut files = Files::lock(&ask.etc)?;
    if files.passwd.find(0, name).is_some() {
        return Err(Failure::new(DATA, format!("login name `{name}' already exists")));
    }
    let uid = match ask.number('u')? {
        Some(id) if files.passwd.numbers(2).contains(&id) && !ask.has('o') => {
            return Err(Failure::new(DATA, format!("uid `{id}' has already been allocated")));
        }
        Some(id) => id,
        None => free_number(&files)?,
    };
    let gid = first_group(ask, &mut files, name, uid)?;
    let extra = extra_groups(ask, &files)?.unwrap_or_default();
    let base = ask.value('b').unwrap_or("/home");
    let home = ask.value('d').map_or_else(|| format!("{}/{name}", base.trim_end_matches('/')), str::to_owned);
    let shell = shell(ask)?.unwrap_or_else(|| SHELL.to_owned());
    let comment = ask.value('c').unwrap_or_default();
    if ask.has('N') {
        println!("{name}:*:{uid}:{gid}::0:0:{comment}:{home}:{shell}");
        return Ok(0);
    }
    let password = password::asked(ask, name)?.unwrap_or_else(password::of_new_user);
    let entry = [name, "x", &uid.to_string(), &gid, comment, &home, &shell];
    files.passwd.add(entry.map(str::to_owned).to_vec());
    join(&mut files, name, &extra);
    finish(ask, files, name, Some(password))
}

/// The first group of a new user: the one that was asked for, or one of its own.
fn first_group(ask: &Ask, files: &mut Files, name: &str, uid: u32) -> Result<String, Failure> {
    if let Some(text) = ask.value('g').filter(|text| !text.is_empty()) {
        let found = group::find(files, text).and_then(|name| group::number(files, &name));
        return found.ok_or_else(|| Failure::new(NO_USER, format!("group `{text}' is not defined")));
    }
    if let Some(number) = group::number(files, name) {
        return Ok(number);
    }
    let number = group::free_number(files, Some(uid))?;
    group::insert(files, name, number, &[]);
    Ok(number.to_string())
}

/// Writes the files, then does what needs the user to be there: its password and its home.
fn finish(ask: &Ask, mut files: Files, name: &str, password: Option<Password>) -> Outcome {
    match &password {
        Some(Password::Hashed(hash)) => password::put_hash(&mut files, name, hash),
        // Until the root's tool has set it, nobody can log in.
        Some(Password::Clear(_)) => password::put_hash(&mut files, name, "*"),
        None => {}
    }
    files.save()?;
    let entry = files.passwd.find(0, name).cloned().unwrap_or_default();
    if ask.has('m') {
        home::make(ask, &entry)?;
    }
    // Its tool takes the lock as well.
    drop(files);
    if let Some(Password::Clear(text)) = &password {
        password::hash_clear(ask, name, text)?;
    }
    Ok(0)
}

/// `pw usermod`
pub fn modify(ask: &Ask) -> Outcome {
    check(ask)?;
    let mut files = Files::lock(&ask.etc)?;
    let mut name = meant(ask, &files)?;
    let mut entry = files.passwd.find(0, &name).cloned().unwrap_or_default();
    if let Some(id) = ask.number('u')?.filter(|_| ask.subject().is_some()) {
        if field(&entry, 2) != id.to_string() && files.passwd.numbers(2).contains(&id) {
            return Err(Failure::new(DATA, format!("uid `{id}' has already been allocated")));
        }
        put(&mut entry, 2, id.to_string());
    }
    if let Some(text) = ask.value('g') {
        let found = group::find(&files, text).and_then(|name| group::number(&files, &name));
        put(&mut entry, 3, found.ok_or_else(|| Failure::new(NO_USER, format!("group `{text}' is not defined")))?);
    }
    for (letter, at) in [('c', 4), ('d', 5)] {
        if let Some(text) = ask.value(letter) {
            put(&mut entry, at, text);
        }
    }
    if let Some(shell) = shell(ask)? {
        put(&mut entry, 6, shell);
    }
    let extra = extra_groups(ask, &files)?;
    let password = password::asked(ask, &name)?;
    if let Some(new) = ask.value('l').filter(|new| *new != name) {
        check_name("login", new)?;
        if files.passwd.find(0, new).is_some() {
            return Err(Failure::new(DATA, format!("login name `{new}' already exists")));
        }
        rename(&mut files, &name, new);
        put(&mut entry, 0, new);
        name = new.to_owned();
    }
    if let Some(old) = files.passwd.find_mut(0, &name) {
        *old = entry;
    }
    if let Some(groups) = extra {
        join(&mut files, &name, &groups);
    }
    if ask.has('N') {
        return Ok(0);
    }
    finish(ask, files, &name, password)
}

fn rename(files: &mut Files, old: &str, new: &str) {
    for table in [Some(&mut files.passwd), files.shadow.as_mut()].into_iter().flatten() {
        if let Some(entry) = table.find_mut(0, old) {
            put(entry, 0, new);
        }
    }
    for table in [Some(&mut files.group), files.gshadow.as_mut()].into_iter().flatten() {
        for entry in table.entries_mut() {
            let list: Vec<String> =
                members(entry).into_iter().map(|name| if name == old { new.to_owned() } else { name }).collect();
            put(entry, 3, list.join(","));
        }
    }
}

/// `pw userdel`
pub fn delete(ask: &Ask) -> Outcome {
    let mut files = Files::lock(&ask.etc)?;
    let name = meant(ask, &files)?;
    let entry = files.passwd.find(0, &name).cloned().unwrap_or_default();
    if field(&entry, 2) == "0" {
        return Err(Failure::new(DATA, format!("cannot remove user '{name}'")));
    }
    files.passwd.remove(&name);
    if let Some(shadow) = &mut files.shadow {
        shadow.remove(&name);
    }
    join(&mut files, &name, &[]);
    // The group that came with it goes with it, unless somebody else is in it.
    let own =
        files.group.find(0, &name).filter(|group| field(group, 2) == field(&entry, 3) && members(group).is_empty());
    if own.is_some() && files.passwd.find(3, field(&entry, 3)).is_none() {
        group::remove(&mut files, &name);
    }
    files.save()?;
    if ask.has('r') {
        home::remove(ask, &entry)?;
    }
    Ok(0)
}

/// `pw usershow`
pub fn show(ask: &Ask) -> Outcome {
    let files = Files::look(&ask.etc)?;
    let all = ask.has('a');
    let name = if all { String::new() } else { meant(ask, &files)? };
    for entry in files.passwd.entries().filter(|entry| all || field(entry, 0) == name) {
        let [name, uid, gid] = [0, 2, 3].map(|at| field(entry, at));
        let [comment, home, shell] = [4, 5, 6].map(|at| field(entry, at));
        // The seventh edition had no login classes and times of expiry.
        let middle = if ask.has('7') { "" } else { ":0:0:" };
        println!("{name}:*:{uid}:{gid}:{middle}{comment}:{home}:{shell}");
    }
    Ok(0)
}

/// `pw usernext`
pub fn next(ask: &Ask) -> Outcome {
    let files = Files::look(&ask.etc)?;
    println!("{}:{}", free_number(&files)?, group::free_number(&files, None)?);
    Ok(0)
}
