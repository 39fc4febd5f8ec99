"""What happens in a step: guidance as a push away from a bad version.

    guided = C + Σ strength · shape(C − R)           strength = scale − 1, times the schedules

``C`` is the model's denoised prediction for the positive prompt, ``R`` that of a bad version: the
model with an empty or negative prompt (``N``), a weaker model (``W``), the image's own past.

    errors     how the pack speaks to an artist
    push/      the arithmetic: formulas, schedules, shapes, one push; torch only
    comfy/     ComfyUI, release by release: nothing else here imports it
    models     can two models be compared, and do they differ
    record/    the probe, and the text on a running node
    weaken/    how bad versions are made of a model or a prompt
    run/       a sampling run: where ComfyUI's sampler is entered

Each imports from those above it only. The way of ``weak_scale`` from node to tensor:

    nodes.guidance                  BadVersionGuider.execute: strength = weak_scale − 1
    run.settings.settle             is there a weak push? A WeakPush in a Guidance
    run.attach.with_guidance        a wrapper around each run of a clone of the model
    run.guided_run                  GuidedRun.sample: the run, inside a SideRun of the weak model
    GuidedRun._after_cfg            a post-CFG function, first on the run's own list
    run.running_weak                RunningWeak.add_to: each push away from a weak model
    push.push                       RunningPush.at: C − R of the Call, R by SideRun.predict
    push.schedules                  RunningSchedules.at: strength · factors
    push.shapes                     each shape: what it leaves of C − R
    push.formulas.add_push          guided + strength · delta
"""
