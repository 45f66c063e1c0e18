//! Templates, in a real container where a shell is needed.

use moat_model::jail::{Applied, ApplyTemplate, JailEvent, TemplateName};

use super::*;

fn write(dir: &Path, template: &str, body: &str) {
    let dir = dir.join("jails/.templates").join(own().as_str()).join(template);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("Bastillefile"), body).unwrap();
}

fn apply(template: &str) -> ApplyTemplate {
    ApplyTemplate {
        template: TemplateName::parse(template).unwrap(),
        args: Vec::new(),
        arg_file: None,
        dry_run: false,
        rollback: false,
    }
}

async fn applied(bed: &Bed, asked: ApplyTemplate) -> (Result<Applied>, Vec<JailEvent>) {
    let (listener, mut events) = listen();
    let done = bed.jails.apply(&own(), &name("a"), asked, listener).await;
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.push(event);
    }
    (done, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn b02_steps_are_done_in_order_and_the_failing_one_is_named() {
    let dir = tempfile::Builder::new().prefix("moat-jails-").tempdir().unwrap();
    let Some(bed) = real::bed(dir.path()).await else { return real::not_run("B02") };
    bed.create(thin("a")).await;
    write(
        dir.path(),
        "me/good",
        "ARG WORD=hello\nCMD echo ${WORD}\nLINE_IN_FILE \"x=1\" /etc/rc.conf\nTAGS one two\nLIMITS memoryuse 1G\n",
    );
    let (dry, told) = applied(&bed, ApplyTemplate { dry_run: true, ..apply("me/good") }).await;
    assert_eq!((dry.unwrap().done, told.len(), bed.get("a").spec.tags.len()), (0, 0, 0));
    for _ in 0..2 {
        let (done, told) = applied(&bed, apply("me/good")).await;
        assert_eq!(done.unwrap().done, 4);
        let said = |event: &JailEvent| matches!(event, JailEvent::Output { text, .. } if text == "hello\n");
        assert!(told.iter().any(said), "{told:?}");
    }
    let view = bed.get("a");
    assert_eq!((view.spec.tags.len(), view.spec.limits.len(), view.interrupted), (2, 1, None));
    let sandbox = view.sandbox.unwrap();
    let guest = bed.engine.guest(&sandbox).await.unwrap();
    let read = moat_model::file::Transfer::Read { path: "/etc/rc.conf".to_owned(), offset: 0, length: None };
    let mut bytes = guest.pull(None, &read).await.unwrap();
    assert_eq!(bytes.recv().await.unwrap().unwrap().as_ref(), b"x=1\n", "a line is added once");

    write(dir.path(), "me/bad", "CMD echo before\n\nCMD exit 3\nTAGS never\n");
    let (failed, _) = applied(&bed, apply("me/bad")).await;
    let failed = failed.unwrap_err();
    assert!(failed.to_string().starts_with("me/bad/Bastillefile:3: "), "{failed}");
    let view = bed.get("a");
    assert!(!view.spec.tags.iter().any(|tag| tag.as_str() == "never"));
    assert_eq!(view.interrupted.as_deref(), Some("me/bad/Bastillefile:3"));
    let (again, _) = applied(&bed, apply("me/good")).await;
    again.unwrap();
    assert_eq!(bed.get("a").interrupted, None);
    bed.destroy("a").await.unwrap();
    bed.end().await;
}

#[tokio::test]
async fn b03_a_value_is_never_run_on_the_host() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    bed.create(thin("a")).await;
    let witness = dir.path().join("ran");
    write(dir.path(), "me/evil", "ARG X=none\nLINE_IN_FILE \"${X}\" /etc/motd\n");
    let value = format!("$(touch {0})`touch {0}`", witness.display());
    let asked = ApplyTemplate { args: vec![("X".to_owned(), value)], ..apply("me/evil") };
    let (done, _) = applied(&bed, asked).await;
    done.unwrap();
    assert!(!witness.exists());
}
