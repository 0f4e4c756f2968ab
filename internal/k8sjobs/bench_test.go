package k8sjobs

import "testing"

func BenchmarkBuild(b *testing.B) {
	settings, launch := elaborate()
	patchless := settings
	patchless.PodTemplatePatch = ""
	for name, settings := range map[string]Settings{"patched": settings, "not patched": patchless} {
		b.Run(name, func(b *testing.B) {
			template, err := Compile(settings)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := template.Build(launch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
