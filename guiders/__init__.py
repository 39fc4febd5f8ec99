"""What happens in a step: guidance as a push away from a bad version.

    guided = C + Σ (scale − 1) · shape(C − R)

``C`` is the model's denoised prediction for the positive prompt, ``R`` that of a bad version.

    errors     how the pack speaks to an artist
    push/      the arithmetic: formulas, schedules, shapes; torch only
    models     can two models be compared
    record/    the probe, and the text on a running node
    weaken/    how bad versions are made of a model or a prompt
    run/       a sampling run: where ComfyUI's sampler is entered

Each imports from those above it only. The way of ``weak_scale`` from node to tensor:

    nodes.guidance                     BadVersionGuider.execute(weak_scale)
    run.settings                       WeakLeg.scale, in a Guidance
    run.attach.with_guidance           a wrapper around each run of a clone of the model
    run.guided_run.GuidedRun.sample    the main run, inside a run of ComfyUI for the weak model
    GuidedRun._hang_into               a post-CFG function, first on the run's own list
    GuidedRun._after_cfg               C − R, with R of references and weak_run
    push.schedules.LegScale.excess     (scale − 1) · the factors of the schedules
    push.shapes.LegShape               what the shapes leave of C − R
    push.formulas.add_leg              guided + (scale − 1) · delta
"""
